"""Methods that look at a pool of images without labels: `cafe.features.pool.Pool`."""
