{{ staged_events('other') }}
