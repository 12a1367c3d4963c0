//! Every reason that a report can give. The texts are a contract: `docs/file-contracts.md` lists them, a test sees to it.

use std::fmt;

macro_rules! reasons {
    ($($variant:ident, $text:literal, $weight:ident, $means:literal;)*) => {
        /// A stable reason code, shown in reports as upper-case words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $(#[doc = $means] $variant,)*
        }

        impl Reason {
            /// Every reason.
            pub const EVERY: &'static [Self] = &[$(Self::$variant,)*];

            /// The code in reports.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What it does to the file.
            #[must_use]
            pub fn weight(self) -> Weight {
                match self { $(Self::$variant => Weight::$weight,)* }
            }

            /// What it means, one sentence.
            #[must_use]
            pub fn means(self) -> &'static str {
                match self { $(Self::$variant => $means,)* }
            }
        }
    };
}

/// What a reason does to the file it was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// The file is refused; the client corrects and resends.
    Rejected,
    /// The file is refused; an admin looks first.
    Quarantined,
    /// The row is rejected, the rest is applied.
    Row,
    /// Said in the report, refuses nothing.
    Note,
}

reasons! {
    // Refuse a whole file: the client corrects and resends.
    BadColumnDelimiter, "BAD_COLUMN_DELIMITER", Rejected, "Columns are split by `;`, tab or `|` instead of a comma.";
    BadRowDelimiter, "BAD_ROW_DELIMITER", Rejected, "A lone CR ends rows.";
    NotUtf8, "NOT_UTF8", Rejected, "Bytes that are not UTF-8, or UTF-16.";
    NotText, "NOT_TEXT", Rejected, "Neither text nor a format that is opened.";
    NoRows, "NO_ROWS", Rejected, "No data row in a file that must have one.";
    MissingColumn, "MISSING_COLUMN", Rejected, "A required column is not in the header.";
    RepeatedColumn, "REPEATED_COLUMN", Rejected, "A column that counts stands twice in the header.";
    UnexpectedColumns, "UNEXPECTED_COLUMNS", Rejected, "More columns than the kind allows.";
    BadNameToken, "BAD_NAME_TOKEN", Rejected, "A token in the file name that cannot be read, such as a bad date.";
    TooManyLots, "TOO_MANY_LOTS", Rejected, "More combinations of bank, end date and offer type than one file may have.";
    RowCountDiffers, "ROW_COUNT_DIFFERS", Rejected, "Not the number of rows that the file name says.";
    TooManyRejected, "TOO_MANY_REJECTED", Rejected, "More rejected rows than the reject limit.";
    UnknownBank, "UNKNOWN_BANK", Rejected, "A bank that does not exist (a row's, or the directory's).";
    UnknownBatch, "UNKNOWN_BATCH", Rejected, "Not a batch of this campaign that handed out codes and was exported.";
    UnknownCampaign, "UNKNOWN_CAMPAIGN", Rejected, "A campaign that does not exist.";
    SiteBankTakesNoBatch, "SITE_BANK_TAKES_NO_BATCH", Rejected, "The campaign's bank is for the site.";
    NotEncrypted, "NOT_ENCRYPTED", Rejected, "A plain file where the namespace requires OpenPGP.";
    NotSigned, "NOT_SIGNED", Rejected, "No signature where the namespace requires one.";
    TooLarge, "TOO_LARGE", Rejected, "More plaintext than the limit.";
    // Refuse a whole file: an admin looks first.
    OpenpgpNoKey, "OPENPGP_NO_KEY", Quarantined, "Not encrypted to a key of this daemon.";
    OpenpgpDamaged, "OPENPGP_DAMAGED", Quarantined, "Damaged or modified: the message did not verify.";
    OpenpgpUnsupported, "OPENPGP_UNSUPPORTED", Quarantined, "An OpenPGP form that is refused, such as one without integrity protection.";
    OpenpgpBadSignature, "OPENPGP_BAD_SIGNATURE", Quarantined, "Not signed by a pinned certificate, or the signature is wrong.";
    GzipDamaged, "GZIP_DAMAGED", Quarantined, "Damaged or cut gzip data.";
    TooCompressed, "TOO_COMPRESSED", Quarantined, "Unpacks to more times its size than the limit.";
    ProcessingFailed, "PROCESSING_FAILED", Quarantined, "The daemon could not process the file, several times over.";
    TooManyLayers, "TOO_MANY_LAYERS", Quarantined, "More layers inside one another than the limit.";
    // Reject one row.
    EmptyCode, "EMPTY_CODE", Row, "The code is empty.";
    CodeTooLong, "CODE_TOO_LONG", Row, "The code is longer than the limit; it is never cut.";
    BadCharacter, "BAD_CHARACTER", Row, "A character that a code or id cannot have.";
    BadEndDate, "BAD_END_DATE", Row, "Not a date as YYYY-MM-DD.";
    BadOfferType, "BAD_OFFER_TYPE", Row, "Not an offer type.";
    BadBankName, "BAD_BANK_NAME", Row, "Not a bank's name.";
    WrongColumnCount, "WRONG_COLUMN_COUNT", Row, "More or fewer columns than the header.";
    UnbalancedQuote, "UNBALANCED_QUOTE", Row, "A quote that is never closed.";
    RowTooLong, "ROW_TOO_LONG", Row, "The row is longer than the limit.";
    EmptyCustomerId, "EMPTY_CUSTOMER_ID", Row, "The `customer_id` is empty.";
    CustomerIdTooLong, "CUSTOMER_ID_TOO_LONG", Row, "The `customer_id` is longer than the limit.";
    NotInBatch, "NOT_IN_BATCH", Row, "The customer got no code of the bank in that batch.";
    // Counted and listed, no reason to refuse anything.
    DuplicateInFile, "DUPLICATE_IN_FILE", Note, "The same code stood earlier in this file.";
    DuplicateInBank, "DUPLICATE_IN_BANK", Note, "The bank has the code already; its old end date stands.";
    AlreadyRedeemed, "ALREADY_REDEEMED", Note, "The code was redeemed before.";
    RedeemedUnassigned, "REDEEMED_UNASSIGNED", Note, "A code was redeemed that nobody had been given.";
    RedeemedBeforeUpload, "REDEEMED_BEFORE_UPLOAD", Note, "A code was redeemed before any bank had it.";
    RedemptionBurst, "REDEMPTION_BURST", Note, "So many codes of one lot were redeemed at once that a list of them may be out.";
    UnknownCode, "UNKNOWN_CODE", Note, "No bank has the code; it is remembered.";
    CaseDiffers, "CASE_DIFFERS", Note, "Matched a code that differs only in ASCII case.";
    AmbiguousCode, "AMBIGUOUS_CODE", Note, "Several codes differ from it only in ASCII case; none was taken.";
    ContentRepeated, "CONTENT_REPEATED", Note, "The same content came to the same place before.";
    Bom, "BOM", Note, "A UTF-8 byte order mark was dropped.";
    Crlf, "CRLF", Note, "Rows end in CR LF instead of LF.";
    Trimmed, "TRIMMED", Note, "Outer blanks were trimmed.";
    NoFinalNewline, "NO_FINAL_NEWLINE", Note, "The last row has no LF.";
    ZeroBytes, "ZERO_BYTES", Note, "The file has no bytes at all.";
    EmptyLines, "EMPTY_LINES", Note, "Empty lines were skipped.";
    ExtensionDiffers, "EXTENSION_DIFFERS", Note, "The content is not what the extension says.";
    IgnoredColumns, "IGNORED_COLUMNS", Note, "Columns that the kind does not know were ignored.";
    BankCreated, "BANK_CREATED", Note, "The file named a new bank, which was created.";
    EndDatePassed, "END_DATE_PASSED", Note, "The end date has passed: the codes will never be handed out.";
    SpreadsheetNumber, "SPREADSHEET_NUMBER", Note, "A code looks like a number that a spreadsheet rewrote.";
    ZerosCut, "ZEROS_CUT", Note, "A code of digits is shorter than the usual length: leading zeros may have been cut.";
    FirstRowDiffers, "FIRST_ROW_DIFFERS", Note, "The first row of a file without header has no digit where nearly all codes have: a header, maybe.";
    LookalikeCodes, "LOOKALIKE_CODES", Note, "A code differs from another of the file only in case, or in O and 0, I and 1.";
    FormulaCell, "FORMULA_CELL", Note, "A cell that a spreadsheet would run as a formula; left as it is.";
    RepeatedCustomer, "REPEATED_CUSTOMER", Note, "The same customer stood earlier in this list.";
    AlreadyReturned, "ALREADY_RETURNED", Note, "The customer's code had come back to stock before.";
    HoldStays, "HOLD_STAYS", Note, "The bank is persistent: customers who were not reached keep their code.";
    ColumnNameTaken, "COLUMN_NAME_TAKEN", Note, "A column of the list has the name of one that the assignment file adds.";
    ShortStock, "SHORT_STOCK", Note, "The bank had no code left for this customer.";
    RejectsCut, "REJECTS_CUT", Note, "More rows are listed than the list takes; the counts are whole.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing found in a file: what, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub reason: Reason,
    /// A sentence with the values, and what to do about it. Never a whole code.
    pub message: String,
    /// The line, from 1, where it is about one.
    pub line: Option<u64>,
    /// The column of the line in characters, from 1, where it is about one.
    pub column: Option<u64>,
}

impl Finding {
    /// A finding about the whole file.
    #[must_use]
    pub fn file(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), line: None, column: None }
    }

    /// A finding about one line.
    #[must_use]
    pub fn line(reason: Reason, line: u64, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), line: Some(line), column: None }
    }

    /// The same finding, at a column.
    #[must_use]
    pub fn at_column(mut self, column: u64) -> Self {
        self.column = Some(column);
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (Some(line), Some(column)) => write!(f, "line {line}, column {column}: {}", self.message),
            (Some(line), None) => write!(f, "line {line}: {}", self.message),
            _ => f.write_str(&self.message),
        }
    }
}
