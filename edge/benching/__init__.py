"""The benchmark: load generator, the systems that it drives, what is measured meanwhile, and how that is told."""
