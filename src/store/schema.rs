//! The tables as diesel sees them, in the form of `diesel print-schema`; a test holds them against the catalogue.

#![expect(missing_docs, reason = "what each table and column means stands in the migrations, as COMMENT ON")]

diesel::table! {
    namespace (id) {
        id -> Int4,
        name -> Text,
    }
}

diesel::table! {
    bank (namespace_id, id) {
        namespace_id -> Int4,
        id -> Int4,
        name -> Text,
        audience -> Text,
        persistent -> Bool,
        offer_type -> Text,
        lots -> Int4,
        draws -> Int4,
        created_by_upload -> Nullable<Int8>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    lot (namespace_id, bank_id, id) {
        namespace_id -> Int4,
        bank_id -> Int4,
        id -> Int4,
        upload_id -> Int8,
        end_date -> Nullable<Date>,
        offer_type -> Text,
        size -> Int4,
        next_seq -> Int4,
        redeemed_ahead -> Int4,
        letter_case -> Text,
        shelf -> Int4,
        voided_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
        returns -> Int4,
        next_return -> Int4,
        returns_redeemed -> Int4,
    }
}

diesel::table! {
    coupon (namespace_id, code, bank_id) {
        namespace_id -> Int4,
        bank_id -> Int4,
        lot_id -> Int4,
        seq -> Int4,
        line -> Int8,
        code -> Text,
        shelf -> Int4,
    }
}

diesel::table! {
    redemption (namespace_id, code) {
        namespace_id -> Int4,
        code -> Text,
        upload_id -> Int8,
        line -> Int8,
        redeemed_at -> Timestamptz,
    }
}

diesel::table! {
    assignment (namespace_id, bank_id, customer, channel, draw) {
        namespace_id -> Int4,
        bank_id -> Int4,
        customer -> Text,
        channel -> Text,
        draw -> Int4,
        batch_id -> Int8,
        lot_id -> Int4,
        seq -> Int4,
        outcome -> Int2,
        code -> Text,
        turn -> Int2,
    }
}

diesel::table! {
    assignment_sheet (namespace_id, bank_id, draw, lot_id) {
        namespace_id -> Int4,
        bank_id -> Int4,
        draw -> Int4,
        lot_id -> Int4,
        channel -> Text,
        batch_id -> Int8,
        customers -> Int4,
        first_seq -> Int4,
        end_seq -> Int4,
    }
}

diesel::table! {
    assignment_page (namespace_id, bank_id, lot_id, first_seq) {
        namespace_id -> Int4,
        bank_id -> Int4,
        draw -> Int4,
        lot_id -> Int4,
        first_seq -> Int4,
        first_customer -> Text,
        customers -> Array<Text>,
        seqs -> Array<Int4>,
        outcomes -> Array<Int2>,
        codes -> Array<Text>,
    }
}

diesel::table! {
    redeemed_block (namespace_id, bank_id, lot_id, block) {
        namespace_id -> Int4,
        bank_id -> Int4,
        lot_id -> Int4,
        block -> Int4,
        bits -> Bytea,
    }
}

diesel::table! {
    upload (namespace_id, id) {
        namespace_id -> Int4,
        id -> Int8,
        kind -> Text,
        target -> Text,
        dry_run -> Bool,
        name -> Text,
        user_name -> Text,
        state -> Text,
        session -> Text,
        bytes -> Int8,
        modified_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
        written_at -> Nullable<Timestamptz>,
        received_at -> Nullable<Timestamptz>,
        fence -> Int8,
        lease_until -> Nullable<Timestamptz>,
        attempts -> Int4,
        retry_at -> Nullable<Timestamptz>,
        sha256 -> Nullable<Bytea>,
        business_date -> Nullable<Date>,
        report -> Nullable<Text>,
        finished_at -> Nullable<Timestamptz>,
        reported_at -> Nullable<Timestamptz>,
        returns_batch -> Nullable<Int8>,
    }
}

diesel::table! {
    batch (namespace_id, id) {
        namespace_id -> Int4,
        id -> Int8,
        campaign -> Text,
        bank_id -> Int4,
        channel -> Text,
        upload_id -> Int8,
        business_date -> Date,
        proof -> Bool,
        state -> Text,
        due_at -> Timestamptz,
        send_at -> Nullable<Timestamptz>,
        draw -> Nullable<Int4>,
        assigned_at -> Nullable<Timestamptz>,
        redemptions_as_of -> Nullable<Timestamptz>,
        hold_channel -> Nullable<Text>,
        need -> Nullable<Int8>,
        stock -> Nullable<Int8>,
        waiting_for -> Nullable<Text>,
        manifest -> Nullable<Text>,
        fence -> Int8,
        lease_until -> Nullable<Timestamptz>,
        retry_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
        exported_at -> Nullable<Timestamptz>,
        collected_at -> Nullable<Timestamptz>,
        corrections -> Int8,
        corrections_seen -> Int8,
    }
}

diesel::table! {
    unassigned (namespace_id, batch_id, customer) {
        namespace_id -> Int4,
        batch_id -> Int8,
        customer -> Text,
        reason -> Text,
    }
}

diesel::table! {
    alert (namespace_id, subject) {
        namespace_id -> Int4,
        subject -> Text,
        level -> Int4,
        instance -> Int4,
        changed_at -> Timestamptz,
        forget_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    mail (namespace_id, id) {
        namespace_id -> Int4,
        id -> Int8,
        alert_key -> Text,
        recipient -> Text,
        message_id -> Text,
        subject -> Text,
        text_body -> Text,
        html_body -> Text,
        created_at -> Timestamptz,
        attempts -> Int4,
        fence -> Int8,
        lease_until -> Nullable<Timestamptz>,
        retry_at -> Nullable<Timestamptz>,
        last_error -> Nullable<Text>,
        sent_at -> Nullable<Timestamptz>,
        withdrawn_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    pickup (namespace_id, id) {
        namespace_id -> Int4,
        id -> Int8,
        batch_id -> Int8,
        file -> Text,
        user_name -> Text,
        bytes -> Int8,
        fetched_at -> Timestamptz,
    }
}

diesel::table! {
    stock_day (namespace_id, bank, day) {
        namespace_id -> Int4,
        bank -> Text,
        day -> Date,
        handed_out -> Int8,
    }
}

diesel::table! {
    returned (namespace_id, bank_id, lot_id, place) {
        namespace_id -> Int4,
        bank_id -> Int4,
        lot_id -> Int4,
        place -> Int4,
        seq -> Int4,
        turn -> Int2,
        code -> Text,
        customer -> Text,
        batch_id -> Int8,
        upload_id -> Int8,
        returned_at -> Timestamptz,
    }
}

diesel::table! {
    suspicion (namespace_id, business_date) {
        namespace_id -> Int4,
        business_date -> Date,
        findings -> Int8,
        made_at -> Timestamptz,
    }
}

diesel::allow_tables_to_appear_in_same_query!(
    alert,
    assignment,
    assignment_page,
    assignment_sheet,
    bank,
    batch,
    coupon,
    lot,
    mail,
    namespace,
    pickup,
    redeemed_block,
    redemption,
    returned,
    stock_day,
    suspicion,
    unassigned,
    upload,
);
