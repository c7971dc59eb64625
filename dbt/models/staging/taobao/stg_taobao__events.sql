{{ staged_events('taobao') }}
