-- A rating is no behaviour: the taxonomy sets the thresholds on its whole stars (3.5 counts as 3).
{{ staged_events('movielens', code="'rating_' || greatest(1, floor(rating))::integer") }}
