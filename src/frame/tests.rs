use super::*;
use crate::ids::Epoch;

fn id(seq: u64) -> EventId {
    EventId { epoch: Epoch::parse("k3f9x2").unwrap(), seq }
}

fn text(frame: &Frame) -> &str {
    str::from_utf8(frame.sse()).unwrap()
}

fn lines(text: &str, sep: &str) -> String {
    let mut out = Vec::new();
    write_lines(&mut out, "data: ", text, sep);
    String::from_utf8(out).unwrap()
}

#[test]
fn all_fields_in_order() {
    let mut builder = FrameBuilder::new(Some("one\ntwo"), Some("tick"));
    builder.text("a\r\nb");
    let draft = builder.finish(Some(1500));
    let expected = ": one\n: two\nid: k3f9x2-1042\nevent: tick\ndata: a\ndata: b\nretry: 1500\n\n";
    assert_eq!(draft.len(), expected.len() - "id: k3f9x2-1042\n".len());
    let frame = draft.seal(Some(id(1042)));
    assert_eq!(text(&frame), expected);
    let chunk = format!("{:x}\r\n{expected}\r\n", expected.len());
    assert_eq!(str::from_utf8(frame.chunk()).unwrap(), chunk);
}

#[test]
fn nothing_is_a_blank_line() {
    let draft = FrameBuilder::new(None, None).finish(None);
    assert_eq!(draft.len(), 1);
    let frame = draft.seal(None);
    assert_eq!(frame.sse(), b"\n");
    assert_eq!(frame.chunk(), b"1\r\n\n\r\n");
}

#[test]
fn sealing_moves_nothing_and_allocates_nothing() {
    let mut builder = FrameBuilder::new(None, None);
    builder.text(&"x".repeat(10_000));
    let draft = builder.finish(None);
    let before = draft.buf.as_ptr();
    let frame = draft.seal(Some(id(u64::MAX)));
    assert_eq!(frame.buf.as_ptr(), before);
}

#[test]
fn the_longest_id_and_a_comment_fit() {
    let longest = EventId { epoch: Epoch::parse("zzzzzzzzzzzzzzzz").unwrap(), seq: u64::MAX };
    let mut builder = FrameBuilder::new(Some("c"), None);
    builder.json().extend_from_slice(b"{}");
    let frame = builder.finish(None).seal(Some(longest));
    assert_eq!(text(&frame), ": c\nid: zzzzzzzzzzzzzzzz-18446744073709551615\ndata: {}\n\n");
}

#[test]
fn a_draft_travels_in_parts() {
    let mut builder = FrameBuilder::new(Some("one\ntwo"), Some("tick"));
    builder.text("a\n\nb");
    let draft = builder.finish(Some(1500));
    let (comment, rest) = draft.parts();
    let copy = Draft::from_parts(None, comment, rest).unwrap();
    assert_eq!(copy.len(), draft.len());
    assert_eq!(copy.seal(Some(id(7))).chunk(), draft.seal(Some(id(7))).chunk());
    let nothing = FrameBuilder::new(None, None).finish(None);
    let (comment, rest) = nothing.parts();
    assert_eq!(Draft::from_parts(None, comment, rest).unwrap().seal(None).sse(), b"\n");
}

#[test]
fn a_trace_is_a_field_behind_the_id_and_travels_by_itself() {
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let trace = TraceParent::parse(traceparent.as_bytes());
    let mut builder = FrameBuilder::traced(trace.as_ref(), Some("c"), Some("tick"));
    builder.text("a");
    let draft = builder.finish(None);
    assert_eq!(draft.trace(), trace);
    let (comment, rest) = draft.parts();
    assert_eq!((comment, rest), (&b": c\n"[..], &b"event: tick\ndata: a\n\n"[..]));
    let copy = Draft::from_parts(trace.as_ref(), comment, rest).unwrap();
    assert_eq!((copy.trace(), copy.len()), (trace, draft.len()));
    let expected = format!(": c\nid: k3f9x2-7\ntraceparent: {traceparent}\nevent: tick\ndata: a\n\n");
    for draft in [draft, copy] {
        assert_eq!(text(&draft.seal(Some(id(7)))), expected);
    }
    assert_eq!(FrameBuilder::new(None, None).finish(None).trace(), None);
}

#[test]
fn only_one_whole_event_is_taken_from_elsewhere() {
    for (comment, rest) in [
        ("", ""),
        ("", "data: x\n"),
        ("", "data: x\n\ndata: y\n\n"),
        ("", "\ndata: x\n\n"),
        ("", "\n\n"),
        ("", "data: x\r\rdata: y\n\n"),
        (": c\n\n", "data: x\n\n"),
        (": c", "data: x\n\n"),
        ("data: c\n", "data: x\n\n"),
        (": c\nid: 7\n", "data: x\n\n"),
        ("", "id: 7\ndata: x\n\n"),
        ("", "traceparent: x\ndata: x\n\n"),
    ] {
        assert!(
            Draft::from_parts(None, comment.as_bytes(), rest.as_bytes()).is_none(),
            "{comment:?} {rest:?}"
        );
    }
    assert!(Draft::from_parts(None, b"", b"data: \xff\n\n").is_none());
}

#[test]
fn separators_in_json_are_escaped() {
    let escaped = |text: &str| {
        let mut json = text.as_bytes().to_vec();
        escape_separators(&mut json, 1);
        String::from_utf8(json).unwrap()
    };
    assert_eq!(escaped("\"a\u{85}b\u{2028}\u{2029}\""), r#""a\u0085b\u2028\u2029""#);
    assert_eq!(escaped("\u{2028}\u{2028}"), "\u{2028}\\u2028", "from the start on");
    for same in ["\"\"", "\"plain\"", "\"€ “°” \u{2027}\u{202a}\u{84}\u{86} 日本\""] {
        assert_eq!(escaped(same), same);
    }
}

#[test]
fn json_and_text_may_follow_each_other() {
    let mut builder = FrameBuilder::new(None, None);
    builder.json().extend_from_slice(b"1");
    builder.text("two");
    builder.json().extend_from_slice(b"3");
    let frame = builder.finish(Some(0)).seal(None);
    assert_eq!(text(&frame), "data: 1\ndata: two\ndata: 3\nretry: 0\n\n");
}

#[test]
fn only_the_grammars_line_ends_split() {
    assert_eq!(lines("", "\n"), "data: \n");
    assert_eq!(lines("a\n", "\r\n"), "data: a\r\ndata: \r\n");
    assert_eq!(lines("a\r\nb\rc\nd", "\n"), "data: a\ndata: b\ndata: c\ndata: d\n");
    assert_eq!(lines("\r\r\n\n", "\n"), "data: \ndata: \ndata: \ndata: \n");
    let other = "a\u{2028}b\u{2029}c\u{b}d\u{c}e\u{85}f\0g";
    assert_eq!(lines(other, "\r"), format!("data: {other}\r"));
}

#[test]
fn a_joined_field_loses_its_line_ends() {
    let mut out = Vec::new();
    write_joined(&mut out, "id: ", "\r\na\nb\r", "\r\n");
    assert_eq!(out, b"id: ab\r\n");
}

#[test]
fn a_frame_keeps_little_more_than_its_bytes() {
    for size in [0, 1, 100, 5_000, 100_000] {
        let mut builder = FrameBuilder::new(None, Some("tick"));
        builder.text(&"line\n".repeat(size / 5));
        let frame = builder.finish(None).seal(Some(id(7)));
        assert!(frame.allocated() <= frame.chunk().len() * 5 / 4 + 2 * SLACK + CHUNK_ROOM + ID_ROOM);
    }
}
