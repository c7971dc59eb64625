-- Stock codes that are no products: postage, discounts, fees, samples, adjustments, vouchers.
{{ staged_events(
    'online_retail',
    item='upper(trim(item_id))',
    objection="case
        when regexp_matches(
            upper(trim(item_id)),
            '^(POST|DOT|M|D|S|B|C[23]|CRUK|PADS|BANK CHARGES|AMAZONFEE|SP1002|ADJUST.*|TEST.*|GIFT.*|DCGS.*)$'
        ) then 'service_code'
    end"
) }}
