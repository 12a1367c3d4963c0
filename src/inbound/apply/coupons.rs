//! Coupons: rows into lots, one lot per bank, end date and offer type.

use std::collections::{BTreeMap, HashMap};

use chrono::NaiveDate;

use super::{BankEffect, Effect, Rows};
use crate::config::{Name, NewBanks, OfferType};
use crate::inbound::Work;
use crate::inbound::error::InboundError;
use crate::inbound::kinds::code::LetterCase;
use crate::inbound::kinds::coupons::{Columns, Row, bank_of};
use crate::inbound::kinds::damage::Damage;
use crate::inbound::kinds::first_row::FirstRow;
use crate::inbound::tally::{LISTED_MOST, Tally};
use crate::plaintext::Record;
use crate::reason::{Finding, Reason};
use crate::sorter::run::{Run, RunRow};
use crate::store::Transaction;
use crate::store::banks::{self, KnownBank, NamespaceLock, NewBank};
use crate::store::coupons::{self as store, Added, AddedLot, DuplicateCoupon, Intake, NewLot};

/// A file with more lots than this has its end dates in the wrong column.
const LOTS_MOST: usize = 1_000;
/// Rows of one run. The store takes one while the next is read, so that two half as large do better than a large one.
const RUN_ROWS: usize = 250_000;
/// So many banks are named where a row's is none.
const BANKS_NAMED: usize = 5;

/// The lots of one file, as they turn up.
struct Lots<'w> {
    work: &'w Work<'w>,
    known: HashMap<String, KnownBank>,
    keys: HashMap<(Name, Option<NaiveDate>, OfferType), usize>,
    lots: Vec<Lot>,
    last: Option<Last>,
}

/// What the row before said: the next one mostly says the same.
struct Last {
    bank_name: String,
    end_date: Option<NaiveDate>,
    offer_type: Option<OfferType>,
    key: usize,
}

impl Last {
    fn is_as(&self, row: &Row<'_>) -> bool {
        row.bank_name.unwrap_or_default() == self.bank_name
            && row.end_date == self.end_date
            && row.offer_type == self.offer_type
    }
}

struct Lot {
    bank: Name,
    end_date: Option<NaiveDate>,
    offer_type: OfferType,
    case: LetterCase,
}

pub(super) fn apply(
    transaction: &mut Transaction,
    work: &Work<'_>,
    rows: &mut Rows,
    tally: &mut Tally,
) -> Result<Effect, InboundError> {
    let known = banks::every(transaction, work.claimed.namespace_id)?;
    let known = known.into_iter().map(|bank| (bank.name.clone(), bank)).collect();
    let mut lots = Lots { work, known, keys: HashMap::new(), lots: Vec::new(), last: None };
    let mut reading = Reading::new();
    let mut intake = take_in(transaction, rows, tally, &mut lots, &mut reading)?;
    if tally.rows.read == 0 {
        tally.take_notes(rows.notes());
        return Err(InboundError::Reject(Finding::file(
            Reason::NoRows,
            "the file has no rows; send the codes, or nothing",
        )));
    }
    super::judge(work, rows, tally)?;
    intake.index(transaction)?;
    banks::lock_namespace(transaction, work.claimed.namespace_id, NamespaceLock::Shared)?;
    let ids = lots.resolve(transaction, tally)?;
    banks::lock_banks(transaction, work.claimed.namespace_id, &distinct(&ids))?;
    super::stop_if_repeated(transaction, work, rows)?;

    let before = super::remaining(transaction, work)?;
    let new = lots.new_lots(&ids);
    let added = add(transaction, tally, intake, &ids)?;
    store::finish_lots(transaction, work.claimed.namespace_id, work.claimed.id, &new, &added, work.now)?;
    let after = super::remaining(transaction, work)?;
    Ok(Effect { banks: lots.effects(&ids, &added.lots, &before, &after), ..Effect::default() })
}

/// Where the reading of the file is.
struct Reading {
    columns: Option<Columns>,
    run: Run,
    damage: Damage,
    first_row: FirstRow,
    ended: bool,
}

impl Reading {
    fn new() -> Self {
        let (damage, first_row) = (Damage::default(), FirstRow::default());
        Self { columns: None, run: Run::of(RUN_ROWS), damage, first_row, ended: false }
    }
}

/// Reads the whole file, run by run: the next is read and sorted while the store takes the one before.
fn take_in(
    transaction: &mut Transaction,
    rows: &mut Rows,
    tally: &mut Tally,
    lots: &mut Lots<'_>,
    reading: &mut Reading,
) -> Result<Intake, InboundError> {
    let mut intake = Intake::begin(transaction, lots.work.claimed.namespace_id)?;
    let mut ready = Run::of(RUN_ROWS);
    loop {
        let banks = lots.known_banks();
        let (next, taken) = super::at_once(
            || next_run(rows, tally, lots, reading),
            || match ready.is_empty() {
                true => Ok(()),
                false => intake.take::<InboundError>(transaction, &banks, &mut ready),
            },
        );
        taken?;
        next?;
        std::mem::swap(&mut ready, &mut reading.run);
        if ready.is_empty() {
            break;
        }
    }
    for (finding, count) in reading.damage.findings() {
        tally.warn(finding, count);
    }
    if let Some(finding) = reading.first_row.finding() {
        tally.warn(finding, 1);
    }
    Ok(intake)
}

/// Leaves the next run sorted in `reading`; an empty one at the end of the file.
fn next_run(
    rows: &mut Rows,
    tally: &mut Tally,
    lots: &mut Lots<'_>,
    reading: &mut Reading,
) -> Result<(), InboundError> {
    reading.run.clear();
    if reading.ended {
        return Ok(());
    }
    read(rows, tally, lots, reading)?;
    let mut listed = Ok(());
    reading.run.sort_and_drop_repeats(&lots.banks(), |row| {
        tally.rows.accepted -= 1;
        let line = Finding::line(Reason::DuplicateInFile, row.number, "the code stood earlier in this file");
        listed = std::mem::replace(&mut listed, Ok(())).and_then(|()| note_duplicate(tally, line, row.text));
    });
    listed?;
    if let Some((count, line)) = reading.run.lookalikes() {
        let message = "codes differ from another of the file only in case, or in O and 0, I and 1";
        tally.warn(Finding::line(Reason::LookalikeCodes, line, message), count);
    }
    Ok(())
}

/// Reads rows until the run is full or the file has ended; the good ones go into the run.
fn read(rows: &mut Rows, tally: &mut Tally, lots: &mut Lots<'_>, reading: &mut Reading) -> Result<(), InboundError> {
    let work = lots.work;
    while !reading.run.is_full() {
        let Some(record) = rows.next_record()? else {
            reading.ended = true;
            break;
        };
        let Some(columns) = &reading.columns else {
            match Columns::from_first(&record, work.place.target.is_some()) {
                Ok(found) => {
                    warn_ignored(&found, tally);
                    tally.begin(&record, found.header);
                    if !found.header
                        && let Some(code) = take(&found, &record, lots, tally, (&mut reading.run, &mut reading.damage))?
                    {
                        reading.first_row.begin(code, record.line());
                    }
                    reading.columns = Some(found);
                }
                Err(finding) => return Err(super::refuse(rows, finding)),
            }
            continue;
        };
        if let Some(code) = take(columns, &record, lots, tally, (&mut reading.run, &mut reading.damage))? {
            reading.first_row.see(code);
        }
        if lots.lots.len() > LOTS_MOST {
            return Err(super::refuse(rows, too_many_lots()));
        }
    }
    Ok(())
}

/// Takes one row into the run, or rejects it. Returns the code that it took.
fn take<'r>(
    columns: &Columns,
    record: &Record<'r>,
    lots: &mut Lots<'_>,
    tally: &mut Tally,
    (run, damage): (&mut Run, &mut Damage),
) -> Result<Option<&'r str>, InboundError> {
    tally.rows.read += 1;
    match accept(columns, record, lots) {
        Ok((lot_key, row)) => {
            tally.rows.accepted += 1;
            if row.trimmed {
                tally.warn(Finding::line(Reason::Trimmed, record.line(), "outer blanks were trimmed"), 1);
            }
            damage.see(row.code, record.line());
            run.push(RunRow { number: record.line(), group: lot_key, text: row.code });
            Ok(Some(row.code))
        }
        Err(finding) => {
            tally.reject(finding, record.raw())?;
            Ok(None)
        }
    }
}

fn accept<'r>(columns: &Columns, record: &Record<'r>, lots: &mut Lots<'_>) -> Result<(u32, Row<'r>), Finding> {
    if let Some(reason) = record.problem() {
        return Err(super::super::row_problem(reason, record.line()));
    }
    let row = columns.read(record, lots.work.limits.code_bytes)?;
    let key = match lots.last.as_ref().filter(|last| last.is_as(&row)) {
        Some(last) => last.key,
        None => lots.key_of(&row, record.line())?,
    };
    if let Some(lot) = lots.lots.get_mut(key) {
        lot.case.see(row.code);
    }
    Ok((u32::try_from(key).unwrap_or(u32::MAX), row))
}

fn warn_ignored(columns: &Columns, tally: &mut Tally) {
    if !columns.ignored.is_empty() {
        let message = format!("columns that are not known were ignored: {}", columns.ignored.join(", "));
        tally.warn(Finding::file(Reason::IgnoredColumns, message), columns.ignored.len() as u64);
    }
}

fn too_many_lots() -> Finding {
    Finding::file(
        Reason::TooManyLots,
        format!("more than {LOTS_MOST} combinations of bank, end date and offer type; check the columns"),
    )
}

impl Lots<'_> {
    /// The index of the lot that a row goes to.
    fn key_of(&mut self, row: &Row<'_>, line: u64) -> Result<usize, Finding> {
        let bank = bank_of(row, line, self.work.place.target.as_ref())?;
        let key = self.key(bank, row.end_date.or(self.work.file_name.until), row.offer_type, line)?;
        self.last = Some(Last {
            bank_name: row.bank_name.unwrap_or_default().to_owned(),
            end_date: row.end_date,
            offer_type: row.offer_type,
            key,
        });
        Ok(key)
    }

    fn key(
        &mut self,
        bank: Name,
        end_date: Option<NaiveDate>,
        offer_type: Option<OfferType>,
        line: u64,
    ) -> Result<usize, Finding> {
        let default = match self.known.get(bank.as_str()) {
            Some(known) => OfferType::parse(&known.offer_type),
            None if self.work.namespace.new_banks == NewBanks::Create && self.work.place.target.is_none() => None,
            None => {
                let message = match &self.work.place.target {
                    Some(directory) => {
                        format!("there is no bank `{directory}`; have it declared, or use another directory")
                    }
                    // A row's word is not repeated: where columns are swapped it is a code.
                    None => format!(
                        "there is no bank of that name; correct it, or have it declared (there are: {})",
                        self.names()
                    ),
                };
                return Err(Finding::line(Reason::UnknownBank, line, message));
            }
        };
        let offer_type = offer_type.or(default).unwrap_or(OfferType::Other);
        let wanted = (bank, end_date, offer_type);
        if let Some(key) = self.keys.get(&wanted) {
            return Ok(*key);
        }
        let key = self.lots.len();
        self.lots.push(Lot { bank: wanted.0.clone(), end_date, offer_type, case: LetterCase::default() });
        self.keys.insert(wanted, key);
        Ok(key)
    }

    /// The first banks that there are.
    fn names(&self) -> String {
        let mut names: Vec<&str> = self.known.keys().map(String::as_str).collect();
        names.sort_unstable();
        let more = if names.len() > BANKS_NAMED { ", ..." } else { "" };
        names.truncate(BANKS_NAMED);
        format!("{}{more}", names.join(", "))
    }

    /// The bank id of each lot; banks that the file names first are made.
    fn resolve(&mut self, transaction: &mut Transaction, tally: &mut Tally) -> Result<Vec<i32>, InboundError> {
        let mut ids = Vec::with_capacity(self.lots.len());
        for lot in &self.lots {
            if let Some(bank) = self.known.get(lot.bank.as_str()) {
                ids.push(bank.id);
                continue;
            }
            let new = NewBank {
                name: lot.bank.as_str(),
                audience: "communicate",
                persistent: true,
                offer_type: "other",
                created_by_upload: Some(self.work.claimed.id),
            };
            let bank = banks::create(transaction, self.work.claimed.namespace_id, &new, self.work.now)?;
            let message = format!("bank `{}` was created: persistent, communicate, other", lot.bank);
            tally.warn(Finding::file(Reason::BankCreated, message), 1);
            ids.push(bank.id);
            self.known.insert(bank.name.clone(), bank);
        }
        let today = self.work.today();
        for lot in self.lots.iter().filter(|lot| lot.end_date.is_some_and(|end| end < today)) {
            let end = lot.end_date.map(|end| end.to_string()).unwrap_or_default();
            let message = format!("the end date {end} has passed: codes with it are never handed out");
            tally.warn(Finding::file(Reason::EndDatePassed, message), 1);
        }
        Ok(ids)
    }

    /// The bank of each lot so far, where it is known yet.
    fn known_banks(&self) -> Vec<Option<i32>> {
        self.lots.iter().map(|lot| self.known.get(lot.bank.as_str()).map(|bank| bank.id)).collect()
    }

    /// A number per lot key that is the same for lots of the same bank.
    fn banks(&self) -> Vec<usize> {
        let mut first: HashMap<&Name, usize> = HashMap::new();
        self.lots.iter().enumerate().map(|(key, lot)| *first.entry(&lot.bank).or_insert(key)).collect()
    }

    fn new_lots(&self, ids: &[i32]) -> Vec<NewLot> {
        self.lots
            .iter()
            .zip(ids)
            .map(|(lot, bank_id)| NewLot {
                bank_id: *bank_id,
                end_date: lot.end_date,
                offer_type: lot.offer_type.as_str(),
                letter_case: lot.case.as_str(),
            })
            .collect()
    }

    fn effects(
        &self,
        ids: &[i32],
        added: &[AddedLot],
        before: &BTreeMap<i32, i64>,
        after: &BTreeMap<i32, i64>,
    ) -> Vec<BankEffect> {
        let mut effects: BTreeMap<&str, BankEffect> = BTreeMap::new();
        for (key, (lot, id)) in self.lots.iter().zip(ids).enumerate() {
            let effect = effects.entry(lot.bank.as_str()).or_insert_with(|| BankEffect {
                bank: lot.bank.to_string(),
                before: before.get(id).copied().unwrap_or_default(),
                after: after.get(id).copied().unwrap_or_default(),
                accepted: 0,
                unassigned: None,
            });
            let size = |added: &AddedLot| usize::try_from(added.lot_key).is_ok_and(|added| added == key);
            effect.accepted += added.iter().find(|added| size(added)).map_or(0, |added| added.size);
        }
        effects.into_values().collect()
    }
}

/// Adds what was taken in; counts and lists what the banks had already. Returns what each lot got.
fn add(transaction: &mut Transaction, tally: &mut Tally, intake: Intake, banks: &[i32]) -> Result<Added, InboundError> {
    let rows = intake.rows();
    let added = intake.add(transaction, banks)?;
    let codes: i64 = added.lots.iter().map(|lot| lot.size).sum();
    let skipped = rows.saturating_sub(u64::try_from(codes).unwrap_or_default());
    tally.rows.accepted -= skipped;
    tally.rows.duplicate = tally.rows.read - tally.rows.rejected - tally.rows.accepted;
    if added.clashes > 0 {
        let known = store::clashes(transaction, room(tally))?;
        list(tally, known, Reason::DuplicateInBank, "the bank has the code already; its end date stands")?;
    }
    if skipped > added.clashes {
        let repeats = store::repeats(transaction, room(tally))?;
        list(tally, repeats, Reason::DuplicateInFile, "the code stood earlier in this file")?;
    }
    let redeemed: i64 = added.lots.iter().map(|lot| lot.redeemed).sum();
    if let Ok(redeemed @ 1..) = u64::try_from(redeemed) {
        let message = "codes had been redeemed before they came; they are not handed out";
        tally.warn(Finding::file(Reason::AlreadyRedeemed, message), redeemed);
    }
    if tally.listed() < tally.rows.duplicate {
        let message = format!("{} of {} duplicates are listed", tally.listed(), tally.rows.duplicate);
        tally.warn(Finding::file(Reason::RejectsCut, message), 1);
    }
    Ok(added)
}

/// How many more rows can be listed.
fn room(tally: &Tally) -> i64 {
    LISTED_MOST.saturating_sub(i64::try_from(tally.listed()).unwrap_or(i64::MAX))
}

fn list(
    tally: &mut Tally,
    duplicates: Vec<DuplicateCoupon>,
    reason: Reason,
    message: &'static str,
) -> Result<(), InboundError> {
    for duplicate in duplicates {
        let finding = Finding::line(reason, u64::try_from(duplicate.line).unwrap_or_default(), message);
        note_duplicate(tally, finding, &duplicate.code)?;
    }
    Ok(())
}

fn note_duplicate(tally: &mut Tally, finding: Finding, code: &str) -> Result<(), InboundError> {
    if i64::try_from(tally.listed()).is_ok_and(|listed| listed < LISTED_MOST) {
        tally.list(&finding, code)?;
    }
    tally.warn(finding, 1);
    Ok(())
}

fn distinct(ids: &[i32]) -> Vec<i32> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    ids
}
