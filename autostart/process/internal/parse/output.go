package parse

import (
	"bytes"
	"unicode"
	"unicode/utf8"
)

// WordsMax is how much of a line is put into a sentence for people, in bytes.
const WordsMax = 200

// LastLine returns the last line of text that is not blank, fit for a sentence: without control
// characters and not too long.
func LastLine(text []byte) string {
	for len(text) > 0 {
		i := bytes.LastIndexByte(text, '\n')
		line := bytes.TrimSpace(text[i+1:])
		text = text[:max(i, 0)]
		words := make([]byte, 0, min(len(line), WordsMax))
		for len(line) > 0 && len(words) < WordsMax {
			r, n := utf8.DecodeRune(line)
			if line = line[n:]; r != utf8.RuneError && unicode.IsPrint(r) {
				words = utf8.AppendRune(words, r)
			}
		}
		if words = bytes.TrimSpace(words); len(words) > 0 {
			if len(line) > 0 {
				words = append(words, "..."...)
			}
			return string(words)
		}
	}
	return ""
}
