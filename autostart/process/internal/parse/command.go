package parse

import (
	"errors"
	"strings"
)

// VariableNames are the variables that a command may refer to. They are also set in a machine's
// environment.
var VariableNames = [...]string{"PORT", "MACHINE", "REGION", "EPOCH", "APP"}

// Variables are the values of VariableNames, in the same order.
type Variables [len(VariableNames)]string

// Environ returns the variables as KEY=value pairs.
func (v Variables) Environ() []string {
	env := make([]string, len(v))
	for i, name := range VariableNames {
		env[i] = name + "=" + v[i]
	}
	return env
}

// Expand replaces $NAME and ${NAME} in s for the names of v. Every other dollar sign stays.
func (v Variables) Expand(s string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, "$")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		i, length := variableAt(rest)
		if i < 0 {
			b.WriteByte('$')
		} else {
			b.WriteString(v[i])
		}
		s = rest[length:]
	}
}

// UsesVariable reports whether Expand may change s.
func UsesVariable(s string) bool {
	for {
		_, rest, found := strings.Cut(s, "$")
		if !found {
			return false
		}
		if i, _ := variableAt(rest); i >= 0 {
			return true
		}
		s = rest
	}
}

// variableAt looks for a variable at the start of s, which is what follows a dollar sign. It
// returns the variable's index and the length of its spelling, or -1 and 0.
func variableAt(s string) (index, length int) {
	name, braces := s, 0
	if strings.HasPrefix(s, "{") {
		end := strings.IndexByte(s, '}')
		if end < 0 {
			return -1, 0
		}
		name, braces = s[1:end], 2
	} else {
		end := 0
		for end < len(s) && isNameByte(s[end]) {
			end++
		}
		name = s[:end]
	}
	for i, known := range VariableNames {
		if name == known {
			return i, len(name) + braces
		}
	}
	return -1, 0
}

func isNameByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// Words splits a command line at blanks. Single quotes keep everything up to the next one, double
// quotes keep blanks and let a backslash quote a double quote or a backslash, and a backslash
// outside of quotes keeps the next byte. Quotes may begin and end inside a word; empty ones make an
// empty word.
func Words(s string) ([]string, error) {
	var words []string
	var word []byte
	in := false // inside a word
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case ' ', '\t', '\n', '\r':
			if in {
				words, word, in = append(words, string(word)), word[:0], false
			}
		case '\'':
			in = true
			n := strings.IndexByte(s[i+1:], '\'')
			if n < 0 {
				return nil, errors.New("a single quote is not closed: add the other one")
			}
			word = append(word, s[i+1:i+1+n]...)
			i += n + 1
		case '"':
			in = true
			for i++; ; i++ {
				if i >= len(s) {
					return nil, errors.New("a double quote is not closed: add the other one")
				}
				if s[i] == '"' {
					break
				}
				if s[i] == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\') {
					i++
				}
				word = append(word, s[i])
			}
		case '\\':
			in = true
			if i++; i >= len(s) {
				return nil, errors.New(`a backslash at the end quotes nothing: remove it or write \\`)
			}
			word = append(word, s[i])
		default:
			in = true
			word = append(word, c)
		}
	}
	if in {
		words = append(words, string(word))
	}
	return words, nil
}
