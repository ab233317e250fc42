//! One instance of a template, borrowed from the encoded message.
//!
//! Front ends fill a [`Record`], renderers read it. Nothing here depends on a wire
//! protocol. Strings are unchecked bytes of the sender.

use std::cmp::Ordering;

use crate::word;

/// Seconds and nanoseconds, signed and unchecked: a protobuf Duration, or a Timestamp
/// since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instant {
    /// Whole seconds.
    pub seconds: i64,
    /// Nanoseconds; within a second from a valid sender.
    pub nanos: i32,
}

/// One typed value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Value<'a> {
    /// Not sent, or sent empty.
    #[default]
    Absent,
    /// A string, usually UTF-8.
    String(&'a [u8]),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Double(f64),
    /// A boolean.
    Bool(bool),
    /// An address in network order: 4 or 16 bytes from a valid sender.
    Ip(&'a [u8]),
    /// A timestamp; `None` if its inner message is absent.
    Time(Option<Instant>),
    /// A duration; `None` if its inner message is absent.
    Duration(Option<Instant>),
    /// An e-mail address.
    Email(&'a [u8]),
    /// A DNS name.
    Dns(&'a [u8]),
    /// A URI.
    Uri(&'a [u8]),
    /// A map of strings: a range of the record's pairs.
    StringMap(Stretch),
    /// A map of values: a range of the record's entries.
    Map(Stretch),
}

/// The most bytes that rendering adds to a value, apart from escapes and octets.
pub const MAX_GROWTH: usize = 160;

impl Value<'_> {
    /// The most bytes that rendering adds to it, in any format.
    fn growth(&self) -> usize {
        match self {
            Self::Absent | Self::String(_) | Self::Map(_) => 8,
            Self::Int(_) | Self::Double(_) | Self::Bool(_) => 40,
            Self::Email(_) | Self::Dns(_) | Self::Uri(_) | Self::StringMap(_) => 96,
            // Each byte becomes up to three digits and a space.
            Self::Ip(bytes) => 72 + 4 * bytes.len(),
            Self::Time(_) | Self::Duration(_) => MAX_GROWTH,
        }
    }
}

/// A range of one of the record's lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stretch {
    start: u32,
    end: u32,
}

/// One entry of a map of values.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The entry's key.
    pub key: &'a [u8],
    /// The entry's value.
    pub value: Value<'a>,
}

/// The place of an entry among those of all maps.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The column of its map, and its key's first bytes, as a number: they decide most
    /// comparisons.
    first: u128,
    /// The index of the entry.
    entry: u32,
}

/// One instance: its name, its values in column order, and the lists behind its maps.
/// Reused for all instances of a request, so that the request allocates only once.
#[derive(Debug, Default)]
pub struct Record<'a> {
    /// The full name, `NAME.instance.NAMESPACE`.
    pub name: &'a [u8],
    /// One value per column of the template.
    pub values: Vec<Value<'a>>,
    /// The entries of all maps, in order of arrival.
    entries: Vec<Entry<'a>>,
    /// Their places, by map and key once the record is complete: moving a place is
    /// cheaper than moving an entry.
    places: Vec<Place>,
    pairs: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Record<'a> {
    /// An empty record with capacity for a typical instance.
    pub fn with_room() -> Self {
        Self { entries: Vec::with_capacity(32), places: Vec::with_capacity(32), ..Self::default() }
    }

    /// Resets the record, with `blank` as its values.
    pub fn begin(&mut self, blank: &[Value<'static>]) {
        self.name = &[];
        self.values.clear();
        self.values.extend_from_slice(blank);
        self.entries.clear();
        self.places.clear();
        self.pairs.clear();
    }

    /// The number of map entries and pairs, to limit them.
    pub fn len(&self) -> usize {
        self.entries.len() + self.pairs.len()
    }

    /// Whether all maps are empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an entry to the map in column `map`.
    pub fn push_entry(&mut self, map: u8, key: &'a [u8], value: Value<'a>) {
        let first = u128::from(map) << MAP | prefix(key) >> u8::BITS;
        self.places.push(Place { first, entry: self.entries.len() as u32 });
        self.entries.push(Entry { key, value });
    }

    /// Adds a pair to the current string map.
    pub fn push_pair(&mut self, key: &'a [u8], value: &'a [u8]) {
        self.pairs.push((key, value));
    }

    /// Ends the string map of the pairs from `start` on: sorts by key, keeps the last
    /// of equal keys.
    pub fn close_pairs(&mut self, start: usize) -> Stretch {
        sort_pairs(&mut self.pairs, start);
        stretch(start, self.pairs.len())
    }

    /// The number of pairs: the `start` of the next string map.
    pub fn pairs_len(&self) -> usize {
        self.pairs.len()
    }

    /// Completes the record: sorts entries by map and key, keeps the last of equal
    /// keys, and sets the map values to their ranges.
    pub fn close(&mut self) {
        let Self { entries, places, values, .. } = self;
        if places.len() > 1 {
            places.sort_unstable_by(|a, b| order(entries, a, b).then(a.entry.cmp(&b.entry)));
            keep_last(places, 0, |a, b| order(entries, a, b).is_eq());
        }
        let mut start = 0;
        while let Some(first) = places.get(start) {
            let map = first.map();
            let of_map = places[start..].iter().take_while(|place| place.map() == map).count();
            if let Some(value) = values.get_mut(map) {
                *value = Value::Map(stretch(start, start + of_map));
            }
            start += of_map;
        }
    }

    /// The entries of a map, sorted by key.
    #[inline(always)]
    pub fn entries(&self, stretch: Stretch) -> impl Iterator<Item = &Entry<'a>> {
        let places = self.places.get(stretch.start as usize..stretch.end as usize).unwrap_or_default();
        places.iter().filter_map(|place| self.entries.get(place.entry as usize))
    }

    /// The pairs of a string map, sorted by key.
    pub fn pairs(&self, stretch: Stretch) -> &[(&'a [u8], &'a [u8])] {
        self.pairs.get(stretch.start as usize..stretch.end as usize).unwrap_or_default()
    }

    /// Removes the entry for `key` from the map in column `map`, so that it is never
    /// shown.
    pub fn hide(&mut self, map: usize, key: &[u8]) {
        let Some(Value::Map(stretch)) = self.values.get_mut(map) else { return };
        let (start, end) = (stretch.start as usize, stretch.end as usize);
        let is_it =
            |place: &Place| self.entries.get(place.entry as usize).is_some_and(|entry| entry.key == key);
        let Some(at) = self.places[start..end].iter().position(is_it) else { return };
        self.places[start..end].copy_within(at + 1.., at);
        stretch.end -= 1;
    }

    /// The most bytes that rendering adds to those of the encoded message, in any
    /// format.
    pub fn growth(&self) -> usize {
        let values = self.values.iter().chain(self.entries.iter().map(|entry| &entry.value));
        // Separators of map entries, and JSON's quotes.
        values.map(Value::growth).sum::<usize>() + 8 * self.len()
    }

    /// The value for `key` in the map in column `map`.
    pub fn lookup(&self, map: usize, key: &[u8]) -> Value<'a> {
        let Some(Value::Map(stretch)) = self.values.get(map) else { return Value::Absent };
        let found = self.entries(*stretch).find(|entry| entry.key == key);
        found.map_or(Value::Absent, |entry| entry.value)
    }
}

impl Place {
    fn map(&self) -> usize {
        (self.first >> MAP) as usize
    }
}

/// By map, then bytewise by key, a word at a time: musl's memcmp compares byte by byte,
/// and dimension keys often share a prefix.
#[inline(always)]
fn order(entries: &[Entry], a: &Place, b: &Place) -> Ordering {
    a.first.cmp(&b.first).then_with(|| rest_order(entries, a, b))
}

/// The order of keys with equal first bytes.
#[inline(never)]
fn rest_order(entries: &[Entry], a: &Place, b: &Place) -> Ordering {
    let [a, b] = [a, b].map(|place| entries.get(place.entry as usize).map_or(&[][..], |entry| entry.key));
    let [rest_a, rest_b] = [a, b].map(|key| prefix(key.get(PREFIX..).unwrap_or_default()));
    rest_a.cmp(&rest_b).then_with(|| a.cmp(b))
}

/// The bits of a place's first bytes below the column of its map, and the number of
/// these bytes.
const MAP: u32 = u128::BITS - u8::BITS;
const PREFIX: usize = MAP as usize / 8;

/// The first bytes, as a number with the same order.
fn prefix(key: &[u8]) -> u128 {
    let [high, low] = [key, key.get(8..).unwrap_or_default()].map(|key| word::first(key).swap_bytes());
    u128::from(high) << 64 | u128::from(low)
}

/// From `start` on, drops each element that equals the next one.
fn keep_last<T: Copy>(list: &mut Vec<T>, start: usize, same: impl Fn(&T, &T) -> bool) {
    let mut kept = start;
    for at in start..list.len() {
        if list.get(at + 1).is_some_and(|next| same(&list[at], next)) {
            continue;
        }
        if kept < at {
            list[kept] = list[at];
        }
        kept += 1;
    }
    list.truncate(kept);
}

/// Sorts the pairs from `start` on by key, and keeps the last of equal keys. Shared by
/// all maps of pairs: a sort takes 10 kB.
#[inline(never)]
pub(crate) fn sort_pairs(pairs: &mut Vec<(&[u8], &[u8])>, start: usize) {
    pairs[start..].sort_by_key(|pair| pair.0);
    keep_last(pairs, start, |a, b| a.0 == b.0);
}

/// Callers limit lists to far below 2^32.
fn stretch(start: usize, end: usize) -> Stretch {
    Stretch { start: start as u32, end: end as u32 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn keys<'a>(record: &Record<'a>, map: usize) -> Vec<(&'a [u8], Value<'a>)> {
        let Value::Map(stretch) = record.values[map] else { return Vec::new() };
        record.entries(stretch).map(|e| (e.key, e.value)).collect()
    }

    #[test]
    fn maps_are_sorted_bytewise_and_the_last_of_equal_keys_wins() {
        let mut record = Record::default();
        record.begin(&[Value::Absent; 3]);
        for (map, key, value) in [
            (2, "b", 1),
            (1, "a-long-key-2", 2),
            (2, "a", 3),
            (1, "a-long-key-1", 4),
            (2, "b", 5),
            (1, "a-long-key", 6),
            (1, "a", 7),
            (1, "a\0", 8),
        ] {
            record.push_entry(map, key.as_bytes(), Value::Int(value));
        }
        record.close();
        let first: Vec<_> = keys(&record, 1);
        let texts: Vec<&[u8]> = first.iter().map(|e| e.0).collect();
        assert_eq!(texts, [&b"a"[..], b"a\0", b"a-long-key", b"a-long-key-1", b"a-long-key-2"]);
        let second = keys(&record, 2);
        assert_eq!(second, [(&b"a"[..], Value::Int(3)), (&b"b"[..], Value::Int(5))]);
        assert_eq!(record.values[0], Value::Absent);
        assert_eq!(record.lookup(2, b"b"), Value::Int(5));
        assert_eq!(record.lookup(2, b"c"), Value::Absent);
        record.hide(2, b"a");
        record.hide(2, b"c");
        assert_eq!(keys(&record, 2), [(&b"b"[..], Value::Int(5))]);
    }

    #[test]
    fn maps_of_any_size_with_any_keys_are_those_of_a_sorted_map() {
        let parts =
            ["", "\0", "a", "a-key-of-15-byt", "a-key-of-16-byte", "a-key-of-more-than-two-times-15-bytes"];
        let texts: Vec<String> = (0..400_usize)
            .map(|at| [parts[at * 7 % 6], parts[at * 5 / 3 % 6], &"b".repeat(at * 11 % 17)].concat())
            .collect();
        for count in 0..texts.len() {
            let (mut record, mut expected) = (Record::default(), [BTreeMap::new(), BTreeMap::new()]);
            record.begin(&[Value::Absent; 2]);
            for (at, key) in texts[..count].iter().enumerate() {
                record.push_entry(at as u8 % 2, key.as_bytes(), Value::Int(at as i64));
                expected[at % 2].insert(key.as_bytes(), Value::Int(at as i64));
            }
            record.close();
            for (map, expected) in expected.into_iter().enumerate() {
                assert_eq!(keys(&record, map), expected.into_iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn string_maps_follow_the_same_rules() {
        let mut record = Record::default();
        record.begin(&[Value::Absent]);
        record.push_pair(b"z", b"other map");
        let start = record.pairs_len();
        for (key, value) in [("b", "1"), ("a", "2"), ("b", "3")] {
            record.push_pair(key.as_bytes(), value.as_bytes());
        }
        let stretch = record.close_pairs(start);
        assert_eq!(record.pairs(stretch), [(&b"a"[..], &b"2"[..]), (b"b", b"3")]);
    }
}
