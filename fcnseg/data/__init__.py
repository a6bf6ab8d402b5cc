"""From a folder in VOC's layout to batches on the device."""
