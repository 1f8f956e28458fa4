"""The run folder as a format: records, saved heads, and finding them again."""
