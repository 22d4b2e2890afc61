use super::*;
use crate::layer::tar::archive::record;

#[test]
fn timestamps_round_down_to_nanoseconds() {
    for (text, seconds, nanoseconds) in [
        ("0", 0, 0),
        ("12.5", 12, 500_000_000),
        ("12.", 12, 0),
        ("12.0000000019", 12, 1),
        ("-1", -1, 0),
        ("-1.5", -2, 500_000_000),
        ("-0.000000001", -1, 999_999_999),
        ("9223372036854775807", i64::MAX, 0),
    ] {
        let expected = Timestamp {
            seconds,
            nanoseconds,
        };
        assert_eq!(timestamp(text.as_bytes()).unwrap(), expected, "{text}");
    }
    for bad in [
        "",
        "-",
        ".5",
        "1.x",
        "1e3",
        "+1",
        "--1",
        " 1",
        "9223372036854775808",
    ] {
        assert!(timestamp(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn records_are_split_by_length_alone() {
    let value = b"\n9 a=b\n\0=";
    let bytes = [record(b"k", value), record(b"comment", b"")].concat();
    let records: Vec<_> = Records(&bytes).collect::<Result<_, _>>().unwrap();
    assert_eq!(records, [(&b"k"[..], &value[..]), (b"comment", b"")]);
}

#[test]
fn malformed_records_end_the_header() {
    for bad in [
        &b"5 a=b"[..],
        b"6 a=bX",
        b"7 a=b\n",
        b"99999999999 a=b\n",
        b"18446744073709551615 a=b\n",
        b"0 a=b\n",
        b"1 a=b\n",
        b"2 a=b\n",
        b" 6 a=b\n",
        b"-6 a=b\n",
        b"5 =b\n",
        b"5 ab\n",
        b"\0\0\0\0",
        b"6",
    ] {
        let mut records = Records(bad);
        assert!(records.next().unwrap().is_err(), "{bad:?}");
        assert!(records.next().is_none(), "{bad:?}");
    }
}
