"""What the assets use: home folder, warehouse, model store, text encoder, identity keys, devices, notifier."""
