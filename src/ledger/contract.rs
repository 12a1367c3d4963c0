//! The file contract for one client, written from the live settings: what to send where, in which form, what comes back.
//!
//! Pure: settings in, Markdown out. What holds for everybody is said shortly; `docs/file-contracts.md` has the whole.

use std::fmt::{self, Write as _};

use crate::config::{
    Audience, Limits, Namespace, OfferType, Require, Role, Schedule, Settings, SkippedDays, WhenShort, WhenStale,
};
use crate::reason::{Reason, Weight};

/// What is known beside the settings.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Fingerprints of the SSH host keys.
    pub host_keys: Vec<String>,
    /// The fingerprint of the OpenPGP certificate in `/openpgp/`.
    pub openpgp: Option<String>,
}

/// Writes the contract of `namespace`.
#[must_use]
pub fn write(settings: &Settings, namespace: &Namespace, around: &Surroundings) -> String {
    let mut text = String::new();
    // Writing into memory does not fail.
    let _ = write_all(&mut text, settings, namespace, around);
    text
}

fn write_all(out: &mut String, settings: &Settings, namespace: &Namespace, around: &Surroundings) -> fmt::Result {
    writeln!(out, "# File contract: {}\n", namespace.name)?;
    writeln!(out, "Dates and times are those of {}.\n", namespace.timezone.name())?;
    connection(out, settings, namespace, around)?;
    directories(out, settings, namespace)?;
    form(out, namespace, around, &settings.limits)?;
    if serves(namespace, Role::Client) {
        coupons(out, namespace)?;
        redemptions(out, namespace)?;
    }
    if serves(namespace, Role::Campaigns) {
        recipients(out, namespace)?;
    }
    reports(out)?;
    reasons(out)
}

/// Whether any user of the namespace has `role`, or it has no user yet.
fn serves(namespace: &Namespace, role: Role) -> bool {
    namespace.users.is_empty() || namespace.users.values().any(|user| user.role == role || user.role == Role::All)
}

fn connection(out: &mut String, settings: &Settings, namespace: &Namespace, around: &Surroundings) -> fmt::Result {
    let mut ports: Vec<u16> = settings.sftp.listen.iter().map(std::net::SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    writeln!(out, "## Connection\n\nSFTP, port {}.\n", ports.join(" or "))?;
    for fingerprint in &around.host_keys {
        writeln!(out, "Host key: `{fingerprint}`. Compare it at the first connection.\n")?;
    }
    writeln!(out, "| user | sends and collects | logs in with | from |\n|---|---|---|---|")?;
    for (name, user) in &namespace.users {
        let role = match user.role {
            Role::Client => "coupons, redemptions",
            Role::Campaigns => "recipients lists, assignment files",
            Role::All => "everything",
        };
        let with = match (user.public_keys.len(), &user.password_hash) {
            (0, _) => "password",
            (_, None) => "public key",
            (_, Some(_)) => "public key or password",
        };
        let from: Vec<String> = user.allow_from.iter().map(|network| format!("`{network}`")).collect();
        let from = if from.is_empty() { "anywhere".to_owned() } else { from.join(", ") };
        writeln!(out, "| `{name}` | {role} | {with} | {from} |")?;
    }
    let limits = &settings.limits;
    writeln!(
        out,
        "\nAt most {} sessions at once from one address; {} idle seconds end a session.\n",
        limits.sessions_per_source,
        limits.idle.as_secs()
    )
}

fn directories(out: &mut String, settings: &Settings, namespace: &Namespace) -> fmt::Result {
    writeln!(out, "## Directories\n\n| directory | direction | holds |\n|---|---|---|")?;
    if serves(namespace, Role::Client) {
        writeln!(out, "| `/coupons/` | in | codes; the column `bank_name` says for which bank |")?;
        for bank in namespace.banks.keys() {
            writeln!(out, "| `/coupons/{bank}/` | in | codes for `{bank}` |")?;
        }
        writeln!(out, "| `/redemptions/` | in | codes redeemed since the last file, across all banks |")?;
    }
    if serves(namespace, Role::Campaigns) {
        for campaign in namespace.campaigns.keys() {
            writeln!(out, "| `/recipients/{campaign}/` | in | one recipients list per batch |")?;
            writeln!(out, "| `/assignments/{campaign}/` | out | assignment files |")?;
        }
    }
    writeln!(out, "| `/reports/` | out | a report for every file you send |")?;
    writeln!(
        out,
        "| `/check/...` | in | the inbound directories once more, for trials: full report, nothing applied |"
    )?;
    writeln!(out, "| `/openpgp/` | out | our certificate |")?;
    if namespace.exchange {
        writeln!(out, "| `/exchange/` | both | shared space in which nothing is processed |")?;
    }
    let delete = if namespace.may_delete_collected { "You may" } else { "You cannot" };
    writeln!(
        out,
        "\nA file counts as received when you CLOSE it, or rename it out of a temporary name. A file whose transfer broke \
         can be resumed for {} hours. {delete} delete what you have collected. We keep originals for {} days.\n",
        settings.spool.partial_keep.as_secs() / 3_600,
        settings.spool.archive_keep.as_secs() / 86_400,
    )
}

fn form(out: &mut String, namespace: &Namespace, around: &Surroundings, limits: &Limits) -> fmt::Result {
    writeln!(out, "## Form of every file\n")?;
    writeln!(out, "CSV (RFC 4180): UTF-8, comma, rows end in LF. Plain, gzip, or OpenPGP around either.\n")?;
    let required = match namespace.openpgp.require {
        Require::None => "Encryption is welcome and not required.",
        Require::Encrypted => "**Every file must be encrypted** to our certificate.",
        Require::Signed => {
            "**Every file must be encrypted** to our certificate **and signed** by the key that we have of you."
        }
    };
    writeln!(out, "{required} The certificate is `/openpgp/coupond.asc`.")?;
    if let Some(fingerprint) = &around.openpgp {
        writeln!(out, "Its fingerprint: `{fingerprint}`.")?;
    }
    writeln!(out, "\n| limit | |\n|---|---|")?;
    writeln!(out, "| file as sent | {} |", size(limits.upload_bytes))?;
    writeln!(out, "| file unpacked | {} |", size(limits.plaintext_bytes))?;
    writeln!(out, "| row | {} |", size(limits.row_bytes.try_into().unwrap_or(u64::MAX)))?;
    writeln!(out, "| code | {} bytes |", limits.code_bytes)?;
    writeln!(out, "| `customer_id` | {} bytes |", limits.customer_id_bytes)?;
    writeln!(
        out,
        "| rejected rows | {}, or {} percent from 300 rows on: past either the whole file is refused |\n",
        limits.reject.rows, limits.reject.percent
    )
}

fn size(bytes: u64) -> String {
    [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(|| format!("{bytes} bytes"), |(unit, name)| format!("{} {name}", bytes / unit))
}

fn coupons(out: &mut String, namespace: &Namespace) -> fmt::Result {
    writeln!(out, "## Coupons\n\n| bank | for | a customer | offer |\n|---|---|---|---|")?;
    for (name, bank) in &namespace.banks {
        let audience = match bank.audience {
            Audience::Communicate => "customers, by campaign",
            Audience::Site => "the site",
        };
        let keeps = match (bank.audience, bank.persistent) {
            (Audience::Site, _) => "-",
            (_, true) => "keeps a code until it is redeemed or ends",
            (_, false) => "gets a new code in every batch",
        };
        writeln!(out, "| `{name}` | {audience} | {keeps} | `{}` |", bank.offer_type.as_str())?;
    }
    let unknown = match namespace.new_banks {
        crate::config::NewBanks::Reject => "Rows for any other bank are rejected.",
        crate::config::NewBanks::Create => "A new name makes a new bank.",
    };
    let offers = OfferType::EVERY.map(|offer| format!("`{}`", offer.as_str())).join(", ");
    writeln!(out, "\n{unknown}\n\n| column | |\n|---|---|")?;
    writeln!(out, "| `code` | required; also `coupon`, `coupon_code`, `coupon code` |")?;
    writeln!(out, "| `bank_name` | required in `/coupons/`, where the directory does not name the bank |")?;
    writeln!(out, "| `end_date` | optional, `YYYY-MM-DD`: the last day on which the code is handed out |")?;
    writeln!(out, "| `offer_type` | optional: {offers} |\n")?;
    let bank = namespace.banks.keys().next().map_or("bank", crate::config::Name::as_str);
    writeln!(out, "For example `/coupons/codes.csv`:\n\n```")?;
    writeln!(out, "bank_name,code,end_date\n{bank},EXAMPLE-0001,2026-12-31\n{bank},EXAMPLE-0002,2026-12-31\n```\n")?;
    writeln!(out, "or `/coupons/{bank}/codes.until-2026-12-31.csv`:\n\n```\nEXAMPLE-0001\nEXAMPLE-0002\n```\n")
}

fn redemptions(out: &mut String, namespace: &Namespace) -> fmt::Result {
    writeln!(out, "## Redemptions\n")?;
    let feed = &namespace.redemptions;
    if let Some(by) = feed.expected_by {
        let skipped = skipped(&feed.skipped);
        let by = by.format("%H:%M");
        writeln!(out, "Expected every day by {by}{skipped}. An empty file means \"none today\": send it.\n")?;
    } else {
        writeln!(out, "An empty file means \"none today\".\n")?;
    }
    if let Some(age) = feed.max_age {
        let then = match feed.when_stale {
            WhenStale::Warn => "batches go on with a warning",
            WhenStale::Wait => "batches wait",
        };
        writeln!(out, "When the newest file is older than {} hours, {then}.\n", age.as_secs() / 3_600)?;
    }
    writeln!(out, "One column of codes, with or without the header `code`. For example `/redemptions/used.csv`:\n")?;
    writeln!(out, "```\ncode\nEXAMPLE-0001\n```\n")
}

/// `, except on Sat, Sun and 2026-12-25`
fn skipped(days: &SkippedDays) -> String {
    let named = days.weekdays.iter().map(ToString::to_string).chain(days.dates.iter().map(ToString::to_string));
    let named: Vec<String> = named.collect();
    match named.split_last() {
        None => String::new(),
        Some((only, [])) => format!(", except on {only}"),
        Some((last, before)) => format!(", except on {} and {last}", before.join(", ")),
    }
}

fn recipients(out: &mut String, namespace: &Namespace) -> fmt::Result {
    writeln!(out, "## Recipients and assignments\n")?;
    writeln!(out, "| campaign | bank | channel | runs | when codes are short | files |\n|---|---|---|---|---|---|")?;
    for (name, campaign) in &namespace.campaigns {
        let mut runs = match &campaign.schedule {
            Schedule::OnArrival => "when a list arrives".to_owned(),
            Schedule::Cron(cron) => format!("`{cron}` (cron with seconds)"),
        };
        if let Some(send_at) = campaign.send_at {
            runs = format!("{runs}, to be sent at {}", send_at.format("%H:%M"));
        }
        let short = match campaign.when_short {
            WhenShort::Wait => "waits for a refill",
            WhenShort::Partial => "the first rows get one, the others are listed",
            WhenShort::Fallback => "the others get a fallback code",
        };
        let files = if campaign.encrypt_to.is_some() { "`.csv.pgp`, encrypted to you and signed" } else { "`.csv`" };
        let (bank, channel) = (&campaign.bank, campaign.channel.as_str());
        writeln!(out, "| `{name}` | `{bank}` | {channel} | {runs} | {short} | {files} |")?;
    }
    let campaign = namespace.campaigns.keys().next().map_or("campaign", crate::config::Name::as_str);
    let bank = namespace.campaigns.values().next().map_or("bank", |campaign| campaign.bank.as_str());
    writeln!(
        out,
        "\nA list needs the column `customer_id`; any others are carried into the assignment file unchanged."
    )?;
    writeln!(out, "For example `/recipients/{campaign}/list.csv`:\n\n```\ncustomer_id,first_name\nc-1001,Ada\n```\n")?;
    writeln!(out, "Then, in `/assignments/{campaign}/`, `list.<batch>.csv`:\n\n```")?;
    writeln!(out, "customer_id,first_name,bank_name,code,end_date,outcome")?;
    writeln!(out, "c-1001,Ada,{bank},EXAMPLE-0001,2026-12-31,new\n```\n")?;
    writeln!(
        out,
        "`outcome` is `new`, `kept`, `replaced_redeemed`, `replaced_lapsed`, `fallback` or `proof`. Rows without"
    )?;
    writeln!(
        out,
        "a code are in `list.<batch>.unassigned.csv`. `list.<batch>.manifest.json` appears last: wait for it."
    )?;
    writeln!(out, "A file with `.proof.` in its name makes test sends: nothing is handed out.\n")
}

fn reports(out: &mut String) -> fmt::Result {
    writeln!(out, "## Reports\n")?;
    writeln!(out, "Every file is answered in `/reports/<name>.<upload id>.report.json`; rejected rows stand in")?;
    writeln!(
        out,
        "`/reports/<name>.<upload id>.rejects.csv` (`line,reason,message,value`).\n\n| `status` | |\n|---|---|"
    )?;
    for (status, means) in [
        ("applied", "done"),
        ("rejected", "nothing was applied: correct it and send it again"),
        ("quarantined", "nothing was applied: our admin looks at it first"),
        ("duplicate", "the same content came before; no effect"),
        ("checked", "it was a trial"),
    ] {
        writeln!(out, "| `{status}` | {means} |")?;
    }
    writeln!(
        out,
        "\nThe same content sent to the same place again has no effect; the same name with new content is a new file.\n"
    )
}

fn reasons(out: &mut String) -> fmt::Result {
    writeln!(out, "## Reason codes")?;
    for (weight, title) in [
        (Weight::Rejected, "The file is rejected: correct it and send it again"),
        (Weight::Quarantined, "The file is quarantined: our admin looks first"),
        (Weight::Row, "A row is rejected, the rest is applied"),
        (Weight::Note, "Said in the report, refuses nothing"),
    ] {
        writeln!(out, "\n### {title}\n\n| reason | means |\n|---|---|")?;
        for reason in Reason::EVERY.iter().filter(|reason| reason.weight() == weight) {
            writeln!(out, "| `{reason}` | {} |", reason.means())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes() {
        assert_eq!(size(4 << 30), "4 GiB");
        assert_eq!(size(64 << 10), "64 KiB");
        assert_eq!(size(1_500), "1500 bytes");
        assert_eq!(size(1 << 40), "1 TiB");
    }
}
