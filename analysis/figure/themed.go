package figure

import "bytes"

// themes are the colors of a drawing that depend on the page's, each with the CSS variable
// that a page may set for it.
func themes() map[string]string {
	return map[string]string{
		"#1C2128": "--fig-text", "#57606A": "--fig-soft", "#8C959F": "--fig-axis", "#E3E6EA": "--fig-grid", "#444444": "--fig-soft",
	}
}

// Themed is an SVG whose text, axes, grid and ground take the colors of the page that it is
// put into, where that page has any; by itself it looks the same as before.
func Themed(svg []byte) []byte {
	for color, name := range themes() {
		svg = bytes.ReplaceAll(svg, []byte(color), []byte("var("+name+","+color+")"))
	}
	return bytes.ReplaceAll(svg, []byte(`fill="#fff"/>`), []byte(`fill="var(--fig-bg,#fff)"/>`))
}
