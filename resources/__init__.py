"""What the assets use: home, warehouse, model store, text encoder, identity keys, devices, notifier."""
