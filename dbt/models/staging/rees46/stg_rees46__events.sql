{{ staged_events('rees46') }}
