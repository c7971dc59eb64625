"""What the assets use: the home folder, the warehouse, the model store, the text encoder, keys, devices, notifier."""
