"""What is computed of images and labels in the background: how much labels agree, how doubtful and how unlike images are."""
