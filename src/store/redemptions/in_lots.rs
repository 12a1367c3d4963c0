//! What a redemption file does to lots: how many of their codes it redeems, and which of those nobody had been given.
//!
//! Only the lots' counters know who was given a code, and draws move them: what may be in nobody's hands is noted while codes are
//! looked up, and judged when the lots are locked. A draw that went before has moved `next_seq` by then; the next one waits.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Integer};

use super::RedemptionTerms;
use crate::sorter::run::RunRow;
use crate::sorter::{Reading, Tape};
use crate::store::redeemed::Place;
use crate::store::schema::{lot, returned};
use crate::store::{StoreError, Transaction};

/// What a redemption file did to one lot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedeemedInLot {
    /// The bank.
    pub bank_id: i32,
    /// The lot.
    pub lot_id: i32,
    /// The upload that brought the lot.
    pub coupons_upload: i64,
    /// Codes of the lot.
    pub size: i64,
    /// Codes of the lot that were ever handed out.
    pub handed_out: i64,
    /// Codes of the lot that are redeemed from now on.
    pub redeemed: i64,
    /// The first and the last line that did that.
    pub lines: Lines,
    /// Of these, codes that nobody had been given.
    pub unassigned: i64,
}

/// Lines of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lines {
    /// The first.
    pub first_line: i64,
    /// The last.
    pub last_line: i64,
}

/// Codes of one lot that were redeemed and that nobody had been given, in any bank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NobodysCodes {
    /// The bank.
    pub bank_id: i32,
    /// The lot.
    pub lot_id: i32,
    /// How many.
    pub count: i64,
    /// Where in the file.
    pub lines: Lines,
}

/// Some codes, and the lines that brought them.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    count: i64,
    lines: Option<Lines>,
}

impl Counted {
    fn add(&mut self, line: i64) {
        self.count += 1;
        let lines = self.lines.get_or_insert(Lines { first_line: line, last_line: line });
        lines.first_line = lines.first_line.min(line);
        lines.last_line = lines.last_line.max(line);
    }
}

/// The bank and the lot.
type Key = (i32, i32);

/// The lots of a namespace while a file is applied.
pub(super) struct Lots {
    namespace_id: i32,
    /// From where on each lot's codes may be in nobody's hands: as its counters stood at the beginning.
    seen: HashMap<Key, i32>,
    /// The lots that the file touches, in the order in which it does.
    touched: Vec<(Key, Counted)>,
    numbers: HashMap<Key, u32>,
    /// The places of codes that may be in nobody's hands: the line, the number of the lot, the place.
    notes: Tape,
}

impl Lots {
    pub(super) fn begin(connection: &mut Transaction, terms: &RedemptionTerms<'_>) -> Result<Self, StoreError> {
        let lots: Vec<(i32, i32, i32, i32)> = lot::table
            .filter(lot::namespace_id.eq(terms.namespace_id))
            .select((lot::bank_id, lot::id, lot::next_seq, lot::returns))
            .load(connection)?;
        let from = |next_seq, returns| if returns > 0 { 0 } else { next_seq };
        let seen = lots.into_iter().map(|(bank, lot, next_seq, returns)| ((bank, lot), from(next_seq, returns)));
        Ok(Self {
            namespace_id: terms.namespace_id,
            seen: seen.collect(),
            touched: Vec::new(),
            numbers: HashMap::new(),
            notes: Tape::new(terms.directory),
        })
    }

    /// The code that lies at these places, one in each bank that has it, is redeemed from now on.
    pub(super) fn redeem(&mut self, line: u64, places: &[Place]) -> Result<(), StoreError> {
        let mut noted = false;
        for place in places {
            let key = (place.bank_id, place.lot_id);
            let number = *self.numbers.entry(key).or_insert_with(|| {
                self.touched.push((key, Counted::default()));
                u32::try_from(self.touched.len() - 1).unwrap_or(u32::MAX)
            });
            if let Some((_, tally)) = self.touched.get_mut(number as usize) {
                tally.add(i64::try_from(line).unwrap_or(i64::MAX));
            }
            noted |= self.seen.get(&key).is_none_or(|from| place.seq >= *from);
        }
        if !noted {
            return Ok(());
        }
        let mut text = String::new();
        for place in places {
            let group = self.numbers.get(&(place.bank_id, place.lot_id)).copied().unwrap_or(u32::MAX);
            text.clear();
            let _ = write!(text, "{}", place.seq);
            self.notes.write(RunRow { number: line, group, text: &text })?;
        }
        Ok(())
    }

    /// Takes the codes that nobody has been given yet, or that came back and wait, out of their lots' counts.
    pub(super) fn count(
        self,
        connection: &mut Transaction,
    ) -> Result<(Vec<RedeemedInLot>, Vec<NobodysCodes>), StoreError> {
        let mut keys: Vec<Key> = self.touched.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        let locked = lock(connection, self.namespace_id, &keys)?;
        let waiting = waiting(connection, self.namespace_id, &locked)?;
        let judged = self.judge(&locked, &waiting)?;
        let (mut lots, mut nobodys) = (Vec::new(), Vec::new());
        for (lot, number) in locked.iter().filter_map(|lot| Some((lot, *self.numbers.get(&lot.key())?))) {
            let tally = self.touched.get(number as usize).map(|(_, tally)| *tally).unwrap_or_default();
            let Judged { ahead, returned, nobodys: of_nobody } = judged.get(&number).copied().unwrap_or_default();
            let missing = || StoreError::Missing { what: format!("codes that were redeemed in lot {}", lot.lot_id) };
            lots.push(RedeemedInLot {
                bank_id: lot.bank_id,
                lot_id: lot.lot_id,
                coupons_upload: lot.upload_id,
                size: i64::from(lot.size),
                handed_out: i64::from(lot.next_seq),
                redeemed: tally.count,
                lines: tally.lines.ok_or_else(missing)?,
                unassigned: ahead + returned,
            });
            if let Some(lines) = of_nobody.lines {
                let (bank_id, lot_id, count) = (lot.bank_id, lot.lot_id, of_nobody.count);
                nobodys.push(NobodysCodes { bank_id, lot_id, count, lines });
            }
        }
        if lots.len() != keys.len() {
            return Err(StoreError::Missing { what: "the lots of codes that were redeemed".to_owned() });
        }
        self.move_counters(connection, &judged)?;
        Ok((lots, nobodys))
    }

    /// Judges what was noted, code by code.
    fn judge(&self, locked: &[Locked], waiting: &HashSet<Place>) -> Result<HashMap<u32, Judged>, StoreError> {
        let lots: HashMap<u32, &Locked> =
            locked.iter().filter_map(|lot| Some((*self.numbers.get(&lot.key())?, lot))).collect();
        let (mut reading, mut judged) = (Reading::all(), HashMap::new());
        // The lots of the code at hand, and whether anybody may have it.
        let (mut line, mut of_code, mut somebodys) = (0, Vec::new(), false);
        let end_code = |judged: &mut HashMap<u32, Judged>, line: u64, of_code: &mut Vec<u32>, somebodys: bool| {
            for number in of_code.drain(..).filter(|_| !somebodys) {
                judged.entry(number).or_default().nobodys.add(i64::try_from(line).unwrap_or(i64::MAX));
            }
        };
        while let Some(row) = reading.next_row(&self.notes)? {
            if row.number != line {
                end_code(&mut judged, line, &mut of_code, somebodys);
                (line, somebodys) = (row.number, false);
            }
            let missing = || StoreError::Missing { what: "the lot of a code that was redeemed".to_owned() };
            let lot = lots.get(&row.group).ok_or_else(missing)?;
            let place =
                Place { bank_id: lot.bank_id, lot_id: lot.lot_id, seq: row.text.parse().map_err(|_| missing())? };
            let (ahead, returned) = (place.seq >= lot.next_seq, waiting.contains(&place));
            let counts: &mut Judged = judged.entry(row.group).or_default();
            counts.ahead += i64::from(ahead);
            counts.returned += i64::from(returned);
            somebodys |= lot.is_site || !(ahead || returned);
            of_code.push(row.group);
        }
        end_code(&mut judged, line, &mut of_code, somebodys);
        Ok(judged)
    }

    fn move_counters(&self, connection: &mut Transaction, judged: &HashMap<u32, Judged>) -> Result<(), StoreError> {
        let (mut banks, mut lots, mut ahead, mut returned) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (number, counts) in judged.iter().filter(|(_, counts)| counts.ahead + counts.returned > 0) {
            if let Some(((bank, lot), _)) = self.touched.get(*number as usize) {
                banks.push(*bank);
                lots.push(*lot);
                ahead.push(counts.ahead);
                returned.push(counts.returned);
            }
        }
        diesel::sql_query(
            "UPDATE lot SET redeemed_ahead = lot.redeemed_ahead + k.ahead, \
                 returns_redeemed = lot.returns_redeemed + k.returned \
             FROM unnest($2, $3, $4, $5) AS k (bank_id, lot_id, ahead, returned) \
             WHERE lot.namespace_id = $1 AND lot.bank_id = k.bank_id AND lot.id = k.lot_id",
        )
        .bind::<Integer, _>(self.namespace_id)
        .bind::<Array<Integer>, _>(banks)
        .bind::<Array<Integer>, _>(lots)
        .bind::<Array<BigInt>, _>(ahead)
        .bind::<Array<BigInt>, _>(returned)
        .execute(connection)?;
        Ok(())
    }
}

/// What was judged of a lot.
#[derive(Clone, Copy, Debug, Default)]
struct Judged {
    /// Codes that were not handed out yet.
    ahead: i64,
    /// Codes that came back and wait.
    returned: i64,
    /// Codes that nobody has, in any bank.
    nobodys: Counted,
}

/// A lot under lock.
#[derive(Debug, QueryableByName)]
struct Locked {
    #[diesel(sql_type = Integer)]
    bank_id: i32,
    #[diesel(sql_type = Integer)]
    lot_id: i32,
    #[diesel(sql_type = BigInt)]
    upload_id: i64,
    #[diesel(sql_type = Integer)]
    size: i32,
    #[diesel(sql_type = Integer)]
    next_seq: i32,
    #[diesel(sql_type = Bool)]
    any_waiting: bool,
    #[diesel(sql_type = Bool)]
    is_site: bool,
}

impl Locked {
    fn key(&self) -> Key {
        (self.bank_id, self.lot_id)
    }
}

/// Locks lots in the order of bank and id, as draws do.
fn lock(connection: &mut Transaction, namespace_id: i32, keys: &[Key]) -> Result<Vec<Locked>, StoreError> {
    let (banks, lots): (Vec<i32>, Vec<i32>) = keys.iter().copied().unzip();
    Ok(diesel::sql_query(
        "SELECT l.bank_id, l.id AS lot_id, l.upload_id, l.size, l.next_seq, l.returns > l.next_return AS any_waiting, \
             b.audience = 'site' AS is_site \
         FROM lot AS l JOIN bank AS b ON b.namespace_id = $1 AND b.id = l.bank_id \
         WHERE l.namespace_id = $1 AND (l.bank_id, l.id) IN (SELECT * FROM unnest($2, $3)) \
         ORDER BY l.bank_id, l.id FOR NO KEY UPDATE OF l",
    )
    .bind::<Integer, _>(namespace_id)
    .bind::<Array<Integer>, _>(banks)
    .bind::<Array<Integer>, _>(lots)
    .load(connection)?)
}

/// Codes of these lots that came back and wait.
fn waiting(connection: &mut Transaction, namespace_id: i32, locked: &[Locked]) -> Result<HashSet<Place>, StoreError> {
    let mut all = HashSet::new();
    for Locked { bank_id, lot_id, .. } in locked.iter().filter(|lot| lot.any_waiting) {
        let seqs: Vec<i32> = returned::table
            .inner_join(
                lot::table.on(lot::namespace_id
                    .eq(returned::namespace_id)
                    .and(lot::bank_id.eq(returned::bank_id))
                    .and(lot::id.eq(returned::lot_id))),
            )
            .filter(returned::namespace_id.eq(namespace_id))
            .filter(returned::bank_id.eq(bank_id).and(returned::lot_id.eq(lot_id)))
            .filter(returned::place.ge(lot::next_return))
            .select(returned::seq)
            .load(connection)?;
        all.extend(seqs.into_iter().map(|seq| Place { bank_id: *bank_id, lot_id: *lot_id, seq }));
    }
    Ok(all)
}
