-- Days are the shop's, not UTC's, also on the days on which its clocks change.
select
    event_id,
    day,
    event_at
from {{ ref('int_events__sessionised') }}
where
    {{ in_window('day') }}
    and day != ((event_at at time zone 'UTC') at time zone '{{ setting("timezone") }}')::date
