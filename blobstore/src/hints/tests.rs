use super::*;

fn id(number: u8) -> ContentId {
    ContentId::new(Digest::of(&[number]))
}

fn hint(size_bytes: u64, needs: &[u8]) -> ContentHint {
    ContentHint {
        size_bytes,
        ranges: Vec::new(),
        needs: needs.iter().map(|number| id(*number)).collect(),
    }
}

fn hints() -> Hints {
    let ranged = ContentHint {
        ranges: vec![0..100, 100..101, 4000..5000],
        ..hint(5000, &[1])
    };
    let known = [
        (id(1), hint(10, &[2, 3, 9])),
        (id(2), hint(20, &[4, 1])),
        (id(3), ranged),
        (id(4), hint(40, &[])),
    ];
    Hints::new(known.into(), &[id(9), id(4), id(2)])
}

fn given(hints: &Hints, walk: &mut HintsWalk, of: u8, bytes_max: u64) -> Vec<ContentId> {
    let given = hints.read_with(id(of), walk, bytes_max);
    given.iter().map(|hinted| hinted.content).collect()
}

#[test]
fn gives_out_in_the_order_of_reads_and_once() {
    let (hints, mut walk) = (hints(), HintsWalk::default());
    let all = given(&hints, &mut walk, 1, u64::MAX);
    assert_eq!(
        all,
        [id(1), id(2), id(4), id(3)],
        "what 2 needs comes before 3"
    );
    assert_eq!(given(&hints, &mut walk, 3, u64::MAX), [], "given before");
    let mut walk = HintsWalk::default();
    assert_eq!(
        given(&hints, &mut walk, 9, u64::MAX),
        [],
        "nothing is known of it"
    );
    let mut walk = HintsWalk::default();
    let start = hints.read_at_start(&mut walk, u64::MAX);
    let start: Vec<_> = start.iter().map(|hinted| hinted.content).collect();
    assert_eq!(start, [id(4), id(2), id(1), id(3)]);
    let mut walk = HintsWalk::default();
    // The ranges of 3 are 1,101 bytes.
    assert_eq!(
        given(&hints, &mut walk, 1, 70 + 1100),
        [id(1), id(2), id(4)]
    );
    assert_eq!(
        given(&hints, &mut walk, 3, 0),
        [id(3)],
        "what was asked for, always"
    );
}

#[test]
fn what_there_was_no_room_for_follows_as_it_is_read() {
    let known = [
        (id(1), hint(10, &[2, 3, 4])),
        (id(2), hint(20, &[5])),
        (id(3), hint(30, &[])),
        (id(4), hint(15, &[])),
        (id(5), hint(5, &[])),
        (id(6), hint(7, &[])),
    ];
    let hints = Hints::new(known.into(), &[]);
    let mut walk = HintsWalk::default();
    let mut next = |of, bytes_max| given(&hints, &mut walk, of, bytes_max);
    // Of 30 bytes, and the 10 that are read by now.
    assert_eq!(next(1, 30), [id(1), id(2), id(5)]);
    assert_eq!(next(2, 30), [id(5)], "once more; 3 has no room");
    assert_eq!(next(2, 30), [], "it was read before");
    assert_eq!(next(6, 30), [id(6), id(3)], "room for 32");
    assert_eq!(next(5, 30), [], "for 7");
    assert_eq!(next(3, 30), [id(4)]);
    for read in [1, 2, 3, 4, 5, 6] {
        assert_eq!(next(read, 30), [], "all was given");
    }
}

#[test]
fn round_trips_and_refuses_every_cut() {
    let bytes = hints().encode().unwrap();
    assert_eq!(Hints::decode(&bytes).unwrap(), hints());
    for end in 0..bytes.len() {
        assert!(Hints::decode(&bytes[..end]).is_err());
    }
    assert!(Hints::decode(&[&bytes[..], b"x"].concat()).is_err());
    let empty = Hints::default().encode().unwrap();
    assert!(Hints::decode(&empty).unwrap().is_empty());
}

#[test]
fn golden_bytes() {
    let digest = Digest::of(&hints().encode().unwrap()).to_string();
    assert_eq!(
        digest,
        "bf7f795f898cb26f4b6477aedef1c94584a2b54389d6897b6f373d02b0ed1c1c"
    );
}

#[test]
fn ranges_that_are_not_in_their_content_are_dropped_or_refused() {
    let wrong: [&[(u64, u64)]; 4] = [&[(0, 11)], &[(5, 5)], &[(4, 6), (5, 7)], &[(4, 6), (0, 2)]];
    for ranges in wrong {
        let ranges = ranges.iter().map(|(start, end)| *start..*end).collect();
        let wrong = ContentHint {
            ranges,
            ..hint(10, &[])
        };
        let hints = Hints::new([(id(1), wrong)].into(), &[]);
        assert_eq!(
            hints.read_with(id(1), &mut HintsWalk::default(), 10)[0].ranges,
            []
        );
    }
    let ranged = ContentHint {
        ranges: std::iter::once(3..10).collect(),
        ..hint(10, &[])
    };
    let mut bytes = Hints::new([(id(1), ranged)].into(), &[]).encode().unwrap();
    let at = bytes.len() - 3;
    assert_eq!(bytes[at], 7, "the length of the range");
    bytes[at] = 8;
    assert_eq!(
        Hints::decode(&bytes),
        Err(HintsError("range outside its content"))
    );
    bytes[at] = 0;
    assert_eq!(
        Hints::decode(&bytes),
        Err(HintsError("range outside its content"))
    );
    bytes[at] = 7;
    bytes[at + 2] = 1;
    bytes.push(1);
    assert_eq!(
        Hints::decode(&bytes),
        Err(HintsError("need that is not there"))
    );
}

#[test]
fn small_contents_that_need_nothing_are_at_hand() {
    let mut hints = hints();
    hints.set_small_bytes(40);
    let decoded = Hints::decode(&hints.encode().unwrap()).unwrap();
    assert_eq!(decoded, hints);
    assert_eq!(decoded.needing().count(), 3, "all but 4");
    let mut walk = HintsWalk::default();
    let all = given(&decoded, &mut walk, 1, u64::MAX);
    assert_eq!(all, [id(1), id(2), id(3)]);
    let mut walk = HintsWalk::default();
    // 1 and 2 are small, but somebody has to see that they are read. 4 takes no room.
    assert_eq!(given(&decoded, &mut walk, 1, 30 + 1101), all);
    assert_eq!(given(&decoded, &mut walk, 4, 40), []);
}

#[test]
fn the_first_form_is_read() {
    let hints = hints();
    let encoded = hints.encode().unwrap();
    assert_eq!(encoded[..5], *b"NHT2\0");
    let first = [b"NHT1", &encoded[5..]].concat();
    assert_eq!(
        Digest::of(&first).to_string(),
        "c0b210c159eb519a5a7f1ee49b633f7e616a9b34298e14391b9e878be288eaf3"
    );
    assert_eq!(Hints::decode(&first).unwrap(), hints);
}
