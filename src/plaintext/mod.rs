//! From a file as received to verified rows: layers are opened, bytes become records.
