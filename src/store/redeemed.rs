//! Which places of a lot are redeemed, a bit each: what a draw asks of every code that it hands out or lets a customer keep.
//! `redemption` says the same by code; to look a million codes up there was half of what a batch with many redeemed codes costs.
//!
//! The bits are written in the transaction that writes a redemption, or that brings a code whose redemption is known. Nobody
//! else redeems meanwhile, and a lot's codes stay where they are once it is written down.

use std::collections::{BTreeMap, HashMap};

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
            redeemed.lots.entry(lot_id).or_default().insert(usize::try_from(block).map_err(no_place)?, bits);
        }
        Ok(redeemed)
    }

    /// Some places of one lot.
    #[cfg(test)]
    pub(super) fn of_lot(lot_id: i32, places: &[i32]) -> Self {
        let mut new = NewlyRedeemed::default();
        places.iter().for_each(|seq| new.add(Place { bank_id: 1, lot_id, seq: *seq }).unwrap());
        let blocks = new.blocks.into_iter().map(|((.., block), bits)| (usize::try_from(block).unwrap(), bits));
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

fn no_place(_: std::num::TryFromIntError) -> StoreError {
    StoreError::Missing { what: "a place of a lot".to_owned() }
}

/// A place of a lot, as a statement gives it: the bank, the lot, the place.
#[derive(Clone, Copy, Debug)]
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

/// Places that are redeemed from now on.
#[derive(Debug, Default)]
pub(super) struct NewlyRedeemed {
    /// By bank, lot and number.
    blocks: BTreeMap<(i32, i32, i32), Vec<u8>>,
}

type Block<'a> = (&'a (i32, i32, i32), &'a Vec<u8>);

impl NewlyRedeemed {
    /// Adds a place; one that is there already changes nothing.
    fn add(&mut self, place: Place) -> Result<(), StoreError> {
        let within = usize::try_from(place.seq).map_err(no_place)?;
        let block = i32::try_from(within / PLACES).map_err(no_place)?;
        let bits = self.blocks.entry((place.bank_id, place.lot_id, block)).or_default();
        let byte = within % PLACES / 8;
        if bits.len() <= byte {
            bits.resize(byte + 1, 0);
        }
        if let Some(byte) = bits.get_mut(byte) {
            *byte |= mask(within);
        }
        Ok(())
    }

    /// Adds what a statement finds.
    pub(super) fn of(places: impl Iterator<Item = QueryResult<Place>>) -> Result<Self, StoreError> {
        let mut new = Self::default();
        for place in places {
            new.add(place?)?;
        }
        Ok(new)
    }

    /// How many places of each lot were added.
    pub(super) fn by_lot(&self) -> HashMap<i32, i64> {
        let mut lots = HashMap::new();
        for ((_, lot_id, _), bits) in &self.blocks {
            *lots.entry(*lot_id).or_insert(0) += i64::try_from(ones(bits)).unwrap_or(i64::MAX);
        }
        lots
    }

    /// Writes them down beside those that are there already.
    pub(super) fn write(mut self, connection: &mut PgConnection, namespace_id: i32) -> Result<(), StoreError> {
        let keys: Vec<(i32, i32, i32)> = self.blocks.keys().copied().collect();
        for some in keys.chunks(AT_ONCE) {
            self.add_known(connection, namespace_id, some)?;
            let blocks = some.iter().filter_map(|key| self.blocks.get_key_value(key));
            write(connection, namespace_id, &blocks.collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn add_known(
        &mut self,
        connection: &mut PgConnection,
        namespace_id: i32,
        some: &[(i32, i32, i32)],
    ) -> Result<(), StoreError> {
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
        let (banks, lots, blocks) = columns(some.iter());
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
            let new = self.blocks.entry((bank_id, lot_id, block)).or_default();
            if new.len() < bits.len() {
                new.resize(bits.len(), 0);
            }
            new.iter_mut().zip(bits).for_each(|(new, known)| *new |= known);
        }
        Ok(())
    }
}

fn write(connection: &mut PgConnection, namespace_id: i32, some: &[Block<'_>]) -> Result<(), StoreError> {
    let (banks, lots, blocks) = columns(some.iter().map(|(key, _)| *key));
    let bits: Vec<&[u8]> = some.iter().map(|(_, bits)| bits.as_slice()).collect();
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

fn columns<'k>(keys: impl Iterator<Item = &'k (i32, i32, i32)>) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
    let (mut banks, mut lots, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
    for (bank, lot, block) in keys {
        banks.push(*bank);
        lots.push(*lot);
        blocks.push(*block);
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
        let mut new = NewlyRedeemed::default();
        [3, 3, 40_000, 3].iter().for_each(|seq| new.add(Place { bank_id: 1, lot_id: 2, seq: *seq }).unwrap());
        new.add(Place { bank_id: 1, lot_id: 5, seq: 0 }).unwrap();
        assert_eq!(new.by_lot(), HashMap::from([(2, 2), (5, 1)]));
        assert!(new.add(Place { bank_id: 1, lot_id: 5, seq: -1 }).is_err());
    }
}
