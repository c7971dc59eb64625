-- A rating is no behaviour: the taxonomy sets the thresholds on its whole stars (3.5 counts as 3). What is no rating
-- of half a star to five has no code, and is removed as an unknown behaviour.
{{ staged_events(
    'movielens',
    code="case when rating between 0.5 and 5 then 'rating_' || greatest(1, floor(rating))::integer end"
) }}
