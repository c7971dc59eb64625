{{ staged_events('nightshelf') }}
