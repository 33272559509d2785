//! A QR code for terminals.

use anstyle::{AnsiColor, Color, Style};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// Dark on light, whatever the colours of the terminal.
const PAPER: Style =
    Style::new().fg_color(Some(Color::Ansi(AnsiColor::BrightWhite))).bg_color(Some(Color::Ansi(AnsiColor::Black)));

/// The code of that text. Without colours it is right on a dark terminal.
///
/// # Errors
///
/// Where the text is too long for a code.
pub(super) fn text(content: &str) -> Result<String, String> {
    let code = QrCode::with_error_correction_level(content, EcLevel::L)
        .map_err(|error| format!("the URL does not fit into a QR code: {error}"))?;
    // What is printed is light, what is left out dark.
    let image = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    Ok(image.lines().map(|line| format!("{PAPER}{line}{PAPER:#}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_usual_length_fits_into_eighty_columns() {
        let url = format!("knock://{}:62201/?realm={}&cover={}", "w".repeat(30), "w".repeat(30), "A".repeat(43));
        let text = anstream::adapter::strip_str(&text(&url).expect("a code")).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() <= 30 && lines.iter().all(|line| line.chars().count() <= 80), "{text}");
        // The quiet zone around the code is light.
        assert!(lines[0].chars().all(|c| c == '█') && lines[5].starts_with("████"), "{text}");
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert!(text(&"x".repeat(3000)).expect_err("too long").starts_with("the URL does not fit"));
    }
}
