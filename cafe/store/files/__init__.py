"""Files as a whole: written in one step, locked between processes, digested; knows no format.

A file is first written into a hidden folder of its own (`.cafe-<hex>.writing`) beside its target,
put on disk, and renamed to the target. Whoever looks at the target sees the old file or the new
one, never a half of one, also after a crash. Two writers of one target never share a byte: making a
folder of a random name is exclusive on every file system, and the last rename wins.

The hidden folder holds a file `lock`, which its writer locks. The kernel drops the lock when the
writer dies, so an unlocked folder is the left-over of a killed writer, whatever its age.

A target that is a link is written where it points. What is no file, such as a device, is refused:
a rename would put a file in its place.
"""

from cafe.store.files.archives import check_archive, is_archive
from cafe.store.files.deferred_errors import DeferredErrorFile
from cafe.store.files.disk import append_lines, check_folder, digest_of_file, real_path
from cafe.store.files.locks import is_unlocked, lock_path
from cafe.store.files.targets import lock_file
from cafe.store.files.temporary import left_overs, remove_left_overs, temporary_folder
from cafe.store.files.utf8_path import utf8_path
from cafe.store.files.writing import move, write_file, write_folder, write_path, write_text

__all__ = [
    "DeferredErrorFile",
    "append_lines",
    "check_archive",
    "check_folder",
    "digest_of_file",
    "is_archive",
    "is_unlocked",
    "left_overs",
    "lock_file",
    "lock_path",
    "move",
    "real_path",
    "remove_left_overs",
    "temporary_folder",
    "utf8_path",
    "write_file",
    "write_folder",
    "write_path",
    "write_text",
]
