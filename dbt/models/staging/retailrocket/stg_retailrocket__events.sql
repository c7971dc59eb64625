{{ staged_events('retailrocket') }}
