"""What the training of one person reads: prepared photos, captions, augmentation."""
