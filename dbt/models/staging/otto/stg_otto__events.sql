{{ staged_events('otto') }}
