"""What the training of one person reads: photos prepared, captions, augmentation."""
