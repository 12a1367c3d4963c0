//! A light check of OpenSSH public key lines, so that a key cut short by a copy is found by `check` and not by a client
//! that cannot log in. Pure; the SSH library judges the key itself.

/// Shortest RSA modulus taken, in bits.
const SHORTEST_RSA: usize = 2_048;

/// Checks `<algorithm> <base64> [comment]`.
pub(super) fn public_key(line: &str) -> Result<(), String> {
    let mut words = line.split_ascii_whitespace();
    let (Some(algorithm), Some(encoded)) = (words.next(), words.next()) else {
        return Err("a public key is one line: algorithm, base64, comment; copy the whole line of the .pub file".into());
    };
    let shown = super::values::short(algorithm);
    match algorithm {
        "ssh-ed25519"
        | "ssh-rsa"
        | "ecdsa-sha2-nistp256"
        | "ecdsa-sha2-nistp384"
        | "ecdsa-sha2-nistp521"
        | "sk-ssh-ed25519@openssh.com"
        | "sk-ecdsa-sha2-nistp256@openssh.com" => {}
        "ssh-dss" => return Err("`ssh-dss` keys are too weak; ask for an Ed25519 key".into()),
        "-----BEGIN" => return Err("this is a private key or PEM; use the one line of the .pub file".into()),
        _ if algorithm.ends_with("-cert-v01@openssh.com") => {
            return Err(format!("`{shown}` is a certificate; give the plain public key"));
        }
        _ => {
            return Err(format!(
                "`{shown}` is not a key algorithm; the line begins with one, such as `ssh-ed25519`, without options"
            ));
        }
    }
    let cut = || format!("the base64 of this `{shown}` key is damaged or cut; copy the whole line of the .pub file");
    let blob = base64(encoded).ok_or_else(cut)?;
    let fields = fields(&blob).ok_or_else(cut)?;
    if fields.first().copied() != Some(algorithm.as_bytes()) {
        return Err(format!(
            "the line says `{shown}`, its base64 holds another algorithm; copy the whole line of the .pub file"
        ));
    }
    let complete = match algorithm {
        "ssh-ed25519" => matches!(fields.as_slice(), [_, key] if key.len() == 32),
        "ssh-rsa" => matches!(fields.as_slice(), [_, _, _]),
        "sk-ssh-ed25519@openssh.com" => matches!(fields.as_slice(), [_, key, _] if key.len() == 32),
        "sk-ecdsa-sha2-nistp256@openssh.com" => matches!(fields.as_slice(), [_, _, _, _]),
        _ => matches!(fields.as_slice(), [_, _, _]),
    };
    if !complete {
        return Err(cut());
    }
    let modulus = fields.get(2).map_or(0, |bytes| bytes.iter().skip_while(|byte| **byte == 0).count() * 8);
    if algorithm == "ssh-rsa" && modulus < SHORTEST_RSA {
        return Err(format!("an RSA key of {modulus} bits is too weak; ask for {SHORTEST_RSA} bits or an Ed25519 key"));
    }
    Ok(())
}

/// The fields of an SSH wire blob, each with its length before it.
fn fields(mut blob: &[u8]) -> Option<Vec<&[u8]>> {
    let mut fields = Vec::new();
    while !blob.is_empty() {
        let (length, rest) = blob.split_first_chunk::<4>()?;
        let (field, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        fields.push(field);
        blob = rest;
    }
    Some(fields)
}

/// Standard base64 with padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let body = text.trim_end_matches('=');
    if text.len() - body.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for letter in body.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIE+g0sn9Jt0dJ7ihWkx5oJM1PeU3HB6jTI3PBbOZUWAa";

    #[track_caller]
    fn check(line: &str, expected: Option<&str>) {
        let found = public_key(line).err();
        match (expected, &found) {
            (None, None) => {}
            (Some(words), Some(message)) if message.contains(words) => {}
            _ => panic!("{line:?}: {found:?}"),
        }
    }

    #[test]
    fn key_lines() {
        check(&format!("ssh-ed25519 {ED25519} feed"), None);
        check(&format!("ssh-ed25519 {ED25519}"), None);
        check("", Some("one line"));
        check("ssh-ed25519", Some("one line"));
        check(&format!("ssh-rsa {ED25519}"), Some("another algorithm"));
        check(&format!("from=\"*\" ssh-ed25519 {ED25519}"), Some("without options"));
        check(&format!("ssh-ed25519 {}", ED25519.get(..60).unwrap()), Some("damaged or cut"));
        check(&format!("ssh-ed25519 {}", ED25519.get(..61).unwrap()), Some("damaged or cut"));
        check("ssh-ed25519 ????", Some("damaged or cut"));
        check("ssh-dss AAAA", Some("too weak"));
        check("ssh-ed25519-cert-v01@openssh.com AAAA", Some("certificate"));
        check("-----BEGIN OPENSSH PRIVATE KEY-----", Some("private key"));
    }
}
