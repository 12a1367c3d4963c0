//! Coupon files: `code`; `bank_name` unless the directory names the bank; optional `end_date`, `offer_type`. Under
//! `/coupons/<bank>/` a single column without header will do.

use chrono::NaiveDate;

use super::{code, header};
use crate::config::{Name, OfferType};
use crate::plaintext::Record;
use crate::reason::{Finding, Reason};
use crate::spool::parse_date;

/// Where the columns are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    code: usize,
    bank_name: Option<usize>,
    end_date: Option<usize>,
    offer_type: Option<usize>,
    count: usize,
    /// Columns that are none of ours, as the header has them.
    pub ignored: Vec<String>,
    /// Whether the first row was a header.
    pub header: bool,
}

/// One accepted row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'r> {
    /// The code.
    pub code: &'r str,
    /// The bank, where the file names it.
    pub bank_name: Option<&'r str>,
    /// The row's own end date.
    pub end_date: Option<NaiveDate>,
    /// The row's own offer type.
    pub offer_type: Option<OfferType>,
    /// Whether blanks were cut off the code.
    pub trimmed: bool,
}

impl Columns {
    /// Reads the first row. `directory_bank`: the directory names the bank.
    ///
    /// # Errors
    /// A finding that refuses the file.
    pub fn from_first(record: &Record<'_>, directory_bank: bool) -> Result<Self, Finding> {
        let line = record.line();
        header::refuse_too_long(record)?;
        header::refuse_other_delimiters(line, record.fields())?;
        let named = |name: &'static str| move |cell: &str| cell.trim().eq_ignore_ascii_case(name);
        let code = header::find(line, record.fields(), "code", header::names_code)?;
        let bank_name = header::find(line, record.fields(), "bank_name", named("bank_name"))?;
        let Some(code) = code else {
            if directory_bank && record.len() == 1 {
                return single(record);
            }
            return Err(Finding::line(
                Reason::MissingColumn,
                line,
                "the first row must be a header with a `code` column (and `bank_name` unless the directory names the bank)",
            ));
        };
        if bank_name.is_none() && !directory_bank {
            return Err(Finding::line(
                Reason::MissingColumn,
                line,
                "the header has no `bank_name` column; add it, or drop the file into /coupons/<bank>/",
            ));
        }
        let end_date = header::find(line, record.fields(), "end_date", named("end_date"))?;
        let offer_type = header::find(line, record.fields(), "offer_type", named("offer_type"))?;
        let ours = [Some(code), bank_name, end_date, offer_type];
        let ignored = record
            .fields()
            .enumerate()
            .filter(|(index, _)| !ours.contains(&Some(*index)))
            .map(|(_, cell)| cell.trim().chars().take(60).collect())
            .collect();
        Ok(Self { code, bank_name, end_date, offer_type, count: record.len(), ignored, header: true })
    }

    /// Reads one row.
    ///
    /// # Errors
    /// A finding that rejects the row.
    pub fn read<'r>(&self, record: &Record<'r>, code_bytes: usize) -> Result<Row<'r>, Finding> {
        let line = record.line();
        if record.len() != self.count {
            return Err(Finding::line(
                Reason::WrongColumnCount,
                line,
                format!("the row has {} columns where {} belong", record.len(), self.count),
            ));
        }
        let cell = |index: Option<usize>| index.and_then(|index| record.field(index)).map(str::trim);
        let written = record.field(self.code).unwrap_or_default();
        let code = code::check(written, code_bytes).map_err(|finding| Finding { line: Some(line), ..finding })?;
        let end_date = cell(self.end_date)
            .filter(|text| !text.is_empty())
            .map(|text| {
                parse_date(text)
                    .ok_or_else(|| Finding::line(Reason::BadEndDate, line, "the end date is not a date as YYYY-MM-DD"))
            })
            .transpose()?;
        let offer_type = cell(self.offer_type)
            .filter(|text| !text.is_empty())
            .map(|text| {
                OfferType::parse(text).ok_or_else(|| {
                    Finding::line(
                        Reason::BadOfferType,
                        line,
                        "the offer type is none of free_shipping, percent_off, amount_off, bogo, other",
                    )
                })
            })
            .transpose()?;
        let bank_name = cell(self.bank_name).filter(|text| !text.is_empty());
        Ok(Row { code, bank_name, end_date, offer_type, trimmed: code.len() != written.len() })
    }
}

/// A single column without header, unless its first row reads like one: that word would be handed out as a code.
fn single(record: &Record<'_>) -> Result<Columns, Finding> {
    if let Some(word) = record.field(0).and_then(header::foreign_code_column) {
        let message = format!(
            "the first row, `{word}`, reads like a header, and would be handed out as a code; call the column `code` and send \
             the file again (if it is a code, put a row `code` above it)"
        );
        return Err(Finding::line(Reason::MissingColumn, record.line(), message));
    }
    Ok(Columns {
        code: 0,
        bank_name: None,
        end_date: None,
        offer_type: None,
        count: 1,
        ignored: Vec::new(),
        header: false,
    })
}

/// The bank that a row belongs to: the directory's, which a `bank_name` may only repeat, or the row's own.
///
/// # Errors
/// A finding that rejects the row.
pub fn bank_of(row: &Row<'_>, line: u64, directory: Option<&Name>) -> Result<Name, Finding> {
    match (directory, row.bank_name) {
        (Some(directory), None) => Ok(directory.clone()),
        (Some(directory), Some(name)) if name == directory.as_str() => Ok(directory.clone()),
        (Some(directory), Some(_)) => Err(Finding::line(
            Reason::UnknownBank,
            line,
            format!("the row names another bank than the directory, which is `{directory}`"),
        )),
        (None, Some(name)) => {
            // The cell itself is not repeated: where columns are swapped it is a code.
            let message =
                "the bank name is none: use a-z and 0-9 at both ends, `-` and `_` inside, under 40 characters";
            Name::parse(name).map_err(|_| Finding::line(Reason::BadBankName, line, message))
        }
        (None, None) => Err(Finding::line(Reason::BadBankName, line, "the bank name is empty")),
    }
}
