//! Floats and strings as the interpreter writes them in JSON.

use pyo3::ffi;

/// Appends a finite float as Python's `repr` writes it.
pub fn write_float(number: f64, out: &mut Vec<u8>) {
    if write_short_decimal(number, out) {
        return;
    }
    let magnitude = number.abs();
    // Here ryu writes no exponent and neither does Python, and the shortest digits that read back as the same
    // float, nearest to it, are the same: there is one such text.
    if magnitude == 0.0 || (1e-4..1e16).contains(&magnitude) {
        out.extend_from_slice(ryu::Buffer::new().format_finite(number).as_bytes());
        return;
    }
    // SAFETY: `repr` itself is made of this call: format 'r' and ".0" where nothing shows it is a float. The
    // text is NUL-terminated and ours to free.
    unsafe {
        let text = ffi::PyOS_double_to_string(
            number,
            *c"r".as_ptr(), // a C character: signed on x86-64, unsigned on ARM64
            0,
            ffi::Py_DTSF_ADD_DOT_0,
            std::ptr::null_mut(),
        );
        if text.is_null() {
            // No memory. The short form of ryu is the same number.
            ffi::PyErr_Clear();
            out.extend_from_slice(ryu::Buffer::new().format_finite(number).as_bytes());
            return;
        }
        out.extend_from_slice(std::ffi::CStr::from_ptr(text).to_bytes());
        ffi::PyMem_Free(text.cast());
    }
}

/// Appends a float of at most four decimals and fifteen digits, as most prices and measurements are. Returns
/// false, and appends nothing, for any other.
///
/// `number` is the float nearest to `scaled / 10_000`, a decimal of at most fifteen digits. No two of those
/// share a float, so this one, without its last zeros, is the shortest text that reads back as `number`.
fn write_short_decimal(number: f64, out: &mut Vec<u8>) -> bool {
    const LIMIT: f64 = 1e15;
    let scaled = (number.abs() * 10_000.0).round();
    // Also false for the zeros, one of which has a sign, and for what Python writes with an exponent.
    if !(1.0..LIMIT).contains(&scaled) || (scaled / 10_000.0).to_bits() != number.abs().to_bits() {
        return false;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 < scaled < 1e15")]
    let scaled = scaled as u64;
    if number < 0.0 {
        out.push(b'-');
    }
    out.extend_from_slice(itoa::Buffer::new().format(scaled / 10_000).as_bytes());
    let mut decimals = *b".0000";
    let mut rest = scaled % 10_000;
    for digit in decimals[1..].iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    let len = decimals.iter().rposition(|digit| *digit > b'0').map_or(2, |at| at + 1).max(2);
    out.extend_from_slice(&decimals[..len]);
    true
}

/// Appends a JSON string, escaped as `json.dumps(ensure_ascii=False)` escapes: `"`, `\`, and control
/// characters below U+0020; DEL, U+2028 and everything beyond ASCII stay as they are.
#[inline]
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 3);
    // Nearly all strings have nothing to escape; one pass without a branch, which the compiler widens, tells.
    if bytes.iter().all(|byte| !matches!(*byte, ..0x20 | b'"' | b'\\')) {
        out.push(b'"');
        out.extend_from_slice(bytes);
        out.push(b'"');
    } else {
        // Writing to a Vec cannot fail.
        let _ = serde_json::to_writer(out, text);
    }
}
