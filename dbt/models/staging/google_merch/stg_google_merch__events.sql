{{ staged_events('google_merch') }}
