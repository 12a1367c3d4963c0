//! Which places of a lot are redeemed, a bit each: what a draw asks of every code that it hands out or lets a customer keep.
//! `redemption` says the same by code; to look a code up there costs about as much as all else that is done to keep it.
//!
//! The bits are written in the transaction that writes a redemption, or that brings a code whose redemption is known. Nobody
//! else redeems meanwhile, and a lot's codes stay where they are once it is written down.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use diesel::deserialize;
use diesel::pg::{Pg, PgRowByRowLoadingMode};
use diesel::prelude::*;
use diesel::row::NamedRow;
use diesel::sql_types::{Array, Binary, Integer};

use super::StoreError;
use super::by_place::column;
use super::schema::redeemed_block;

/// Places to a block.
const PLACES: usize = 1 << 15;
/// So many blocks are read, or written, at once.
const AT_ONCE: usize = 256;

/// The redeemed places of a bank.
#[derive(Debug, Default)]
pub(super) struct Redeemed {
    lots: HashMap<i32, BTreeMap<usize, Vec<u8>>>,
}

impl Redeemed {
    /// As the store has them now.
    pub(super) fn of_bank(connection: &mut PgConnection, namespace_id: i32, bank_id: i32) -> Result<Self, StoreError> {
        let blocks = redeemed_block::table
            .filter(redeemed_block::namespace_id.eq(namespace_id).and(redeemed_block::bank_id.eq(bank_id)))
            .select((redeemed_block::lot_id, redeemed_block::block, redeemed_block::bits))
            .load_iter::<(i32, i32, Vec<u8>), PgRowByRowLoadingMode>(connection)?;
        let mut redeemed = Self::default();
        for block in blocks {
            let (lot_id, block, bits) = block?;
            redeemed.lots.entry(lot_id).or_default().insert(usize::try_from(block).map_err(|_| no_place())?, bits);
        }
        Ok(redeemed)
    }

    /// Some places of one lot.
    #[cfg(test)]
    pub(super) fn of_lot(lot_id: i32, places: &[i32]) -> Self {
        let mut marks = Marks::default();
        places.iter().for_each(|seq| marks.mark(Place { bank_id: 1, lot_id, seq: *seq }).unwrap());
        let blocks =
            marks.blocks.into_iter().map(|((.., number), block)| (usize::try_from(number).unwrap(), block.bits));
        Self { lots: HashMap::from([(lot_id, blocks.collect())]) }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.lots.is_empty()
    }

    /// Whether the code at a place of a lot is redeemed.
    pub(super) fn has(&self, lot_id: i32, place: i32) -> bool {
        let (Some(lot), Ok(place)) = (self.lots.get(&lot_id), usize::try_from(place)) else { return false };
        let byte = lot.get(&(place / PLACES)).and_then(|bits| bits.get(place % PLACES / 8));
        byte.is_some_and(|byte| byte & mask(place) != 0)
    }

    /// How many codes of a lot are, from a place on.
    pub(super) fn count_from(&self, lot_id: i32, place: i32) -> u64 {
        let (Some(lot), Ok(place)) = (self.lots.get(&lot_id), usize::try_from(place)) else { return 0 };
        let here = lot.get(&(place / PLACES)).and_then(|bits| bits.get(place % PLACES / 8..)).unwrap_or_default();
        let before = here.first().map_or(0, |byte| (byte & (mask(place) - 1)).count_ones());
        let behind = lot.range(place / PLACES + 1..).map(|(_, bits)| ones(bits));
        ones(here) - u64::from(before) + behind.sum::<u64>()
    }
}

fn mask(place: usize) -> u8 {
    1 << (place % 8)
}

fn ones(bits: &[u8]) -> u64 {
    bits.iter().map(|byte| u64::from(byte.count_ones())).sum()
}

fn no_place() -> StoreError {
    StoreError::Missing { what: "a place of a lot".to_owned() }
}

/// A place of a lot, as a statement gives it: the bank, the lot, the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) bank_id: i32,
    pub(super) lot_id: i32,
    pub(super) seq: i32,
}

impl QueryableByName<Pg> for Place {
    fn build<'a>(row: &impl NamedRow<'a, Pg>) -> deserialize::Result<Self> {
        Ok(Self {
            bank_id: column::<Integer, _>(row, 0)?,
            lot_id: column::<Integer, _>(row, 1)?,
            seq: column::<Integer, _>(row, 2)?,
        })
    }
}

/// The bank, the lot, and which block of the lot.
type Key = (i32, i32, i32);

impl Place {
    fn key(self) -> Result<Key, StoreError> {
        let block = usize::try_from(self.seq).ok().and_then(|seq| i32::try_from(seq / PLACES).ok());
        Ok((self.bank_id, self.lot_id, block.ok_or_else(no_place)?))
    }

    /// Its byte in the block, and its bit in that.
    fn within(self) -> Result<(usize, u8), StoreError> {
        let seq = usize::try_from(self.seq).map_err(|_| no_place())?;
        Ok((seq % PLACES / 8, mask(seq)))
    }
}

/// Places while they become redeemed. A block that was touched stays in memory: four kilobytes for 32,768 codes.
#[derive(Debug, Default)]
pub(super) struct Marks {
    blocks: BTreeMap<Key, Block>,
}

#[derive(Debug, Default)]
struct Block {
    bits: Vec<u8>,
    /// Whether what the store has is among them.
    known: bool,
    /// Whether the store does not have all of them.
    changed: bool,
}

impl Block {
    fn add(&mut self, bits: &[u8]) {
        if self.bits.len() < bits.len() {
            self.bits.resize(bits.len(), 0);
        }
        self.bits.iter_mut().zip(bits).for_each(|(all, more)| *all |= more);
    }
}

impl Marks {
    /// Marks what a statement finds.
    pub(super) fn of(places: impl Iterator<Item = QueryResult<Place>>) -> Result<Self, StoreError> {
        let mut marks = Self::default();
        for place in places {
            marks.mark(place?)?;
        }
        Ok(marks)
    }

    /// Marks a place; one that is marked already stays so.
    pub(super) fn mark(&mut self, place: Place) -> Result<(), StoreError> {
        let (byte, bit) = place.within()?;
        let block = self.blocks.entry(place.key()?).or_default();
        if block.bits.len() <= byte {
            block.bits.resize(byte + 1, 0);
        }
        if let Some(byte) = block.bits.get_mut(byte) {
            *byte |= bit;
        }
        block.changed = true;
        Ok(())
    }

    /// Whether a place is marked, here or in the store, as far as its block is known ([`Self::know`]).
    pub(super) fn has(&self, place: Place) -> Result<bool, StoreError> {
        let (byte, bit) = place.within()?;
        let block = self.blocks.get(&place.key()?).filter(|block| block.known);
        let block = block.ok_or_else(|| StoreError::Missing { what: "a lot's redeemed places".to_owned() })?;
        Ok(block.bits.get(byte).is_some_and(|byte| byte & bit != 0))
    }

    /// How many places of each lot are marked here.
    pub(super) fn by_lot(&self) -> HashMap<i32, i64> {
        let mut lots = HashMap::new();
        for ((_, lot_id, _), block) in &self.blocks {
            *lots.entry(*lot_id).or_insert(0) += i64::try_from(ones(&block.bits)).unwrap_or(i64::MAX);
        }
        lots
    }

    /// Reads what the store has of the blocks of these places.
    pub(super) fn know(
        &mut self,
        connection: &mut PgConnection,
        namespace_id: i32,
        places: impl Iterator<Item = Place>,
    ) -> Result<(), StoreError> {
        let mut keys = BTreeSet::new();
        for place in places {
            let key = place.key()?;
            if self.blocks.get(&key).is_none_or(|block| !block.known) {
                keys.insert(key);
            }
        }
        self.read(connection, namespace_id, &keys.into_iter().collect::<Vec<_>>())
    }

    /// Writes down what is marked, beside what the store has.
    pub(super) fn write(mut self, connection: &mut PgConnection, namespace_id: i32) -> Result<(), StoreError> {
        let unknown = self.blocks.iter().filter(|(_, block)| !block.known).map(|(key, _)| *key);
        self.read(connection, namespace_id, &unknown.collect::<Vec<_>>())?;
        let changed: Vec<(Key, &[u8])> =
            self.blocks.iter().filter(|(_, block)| block.changed).map(|(key, block)| (*key, &*block.bits)).collect();
        changed.chunks(AT_ONCE).try_for_each(|some| write(connection, namespace_id, some))
    }

    fn read(&mut self, connection: &mut PgConnection, namespace_id: i32, keys: &[Key]) -> Result<(), StoreError> {
        #[derive(QueryableByName)]
        struct Known {
            #[diesel(sql_type = Integer)]
            bank_id: i32,
            #[diesel(sql_type = Integer)]
            lot_id: i32,
            #[diesel(sql_type = Integer)]
            block: i32,
            #[diesel(sql_type = Binary)]
            bits: Vec<u8>,
        }
        for some in keys.chunks(AT_ONCE) {
            let (banks, lots, blocks) = columns(some.iter().copied());
            let known: Vec<Known> = diesel::sql_query(
                "SELECT b.bank_id, b.lot_id, b.block, b.bits FROM redeemed_block AS b \
                 JOIN unnest($2, $3, $4) AS k (bank_id, lot_id, block) \
                     ON k.bank_id = b.bank_id AND k.lot_id = b.lot_id AND k.block = b.block \
                 WHERE b.namespace_id = $1",
            )
            .bind::<Integer, _>(namespace_id)
            .bind::<Array<Integer>, _>(banks)
            .bind::<Array<Integer>, _>(lots)
            .bind::<Array<Integer>, _>(blocks)
            .load(connection)?;
            for Known { bank_id, lot_id, block, bits } in known {
                self.blocks.entry((bank_id, lot_id, block)).or_default().add(&bits);
            }
            some.iter().for_each(|key| self.blocks.entry(*key).or_default().known = true);
        }
        Ok(())
    }
}

fn write(connection: &mut PgConnection, namespace_id: i32, some: &[(Key, &[u8])]) -> Result<(), StoreError> {
    let (banks, lots, blocks) = columns(some.iter().map(|(key, _)| *key));
    let bits: Vec<&[u8]> = some.iter().map(|(_, bits)| *bits).collect();
    diesel::sql_query(
        "INSERT INTO redeemed_block (namespace_id, bank_id, lot_id, block, bits) \
         SELECT $1, k.bank_id, k.lot_id, k.block, k.bits FROM unnest($2, $3, $4, $5) AS k (bank_id, lot_id, block, bits) \
         ON CONFLICT (namespace_id, bank_id, lot_id, block) DO UPDATE SET bits = EXCLUDED.bits",
    )
    .bind::<Integer, _>(namespace_id)
    .bind::<Array<Integer>, _>(banks)
    .bind::<Array<Integer>, _>(lots)
    .bind::<Array<Integer>, _>(blocks)
    .bind::<Array<Binary>, _>(bits)
    .execute(connection)?;
    Ok(())
}

fn columns(keys: impl Iterator<Item = Key>) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
    let (mut banks, mut lots, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
    for (bank, lot, block) in keys {
        banks.push(bank);
        lots.push(lot);
        blocks.push(block);
    }
    (banks, lots, blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_its_bit() {
        let edge = i32::try_from(PLACES).unwrap();
        let places = [0, 9, edge - 1, edge, 3 * edge + 5];
        let redeemed = Redeemed::of_lot(7, &places);
        for seq in (0..20).chain(edge - 20..edge + 20).chain(3 * edge..3 * edge + 20) {
            assert_eq!(redeemed.has(7, seq), places.contains(&seq), "place {seq}");
            assert!(!redeemed.has(8, seq));
            let expected = places.iter().filter(|place| **place >= seq).count();
            assert_eq!(redeemed.count_from(7, seq), expected as u64, "from {seq}");
        }
        assert!(!redeemed.has(7, -1));
        assert_eq!(redeemed.count_from(8, 0), 0);
    }

    #[test]
    fn a_place_counts_once() {
        let place = |lot_id, seq| Place { bank_id: 1, lot_id, seq };
        let mut marks = Marks::default();
        [3, 3, 40_000, 3].iter().for_each(|seq| marks.mark(place(2, *seq)).unwrap());
        marks.mark(place(5, 0)).unwrap();
        assert_eq!(marks.by_lot(), HashMap::from([(2, 2), (5, 1)]));
        assert!(marks.mark(place(5, -1)).is_err());
        assert!(marks.has(place(2, 3)).is_err(), "the store was not asked");
    }
}
