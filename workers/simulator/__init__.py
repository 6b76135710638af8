"""Every outside system in one small process, with a book of its own and faults on demand; never for real business."""
