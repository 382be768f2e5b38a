package changes

import "strings"

// split cuts s at white space outside quotes and keeps quotes and escapes. s
// has at least one word.
func split(s string) ([]string, error) {
	var out []string
	var quote byte
	start := -1
	for i := 0; i < len(s); i++ {
		c := s[i]
		space := c == ' ' || c == '\t'
		switch {
		case start < 0 && space:
			continue
		case start < 0:
			start = i
		}
		switch {
		case c == '\\' && quote != '\'':
			i++ // the next one means itself
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case quote == 0 && space:
			out = append(out, s[start:i])
			start = -1
		}
	}
	if quote != 0 {
		return nil, invalid("unexpected end of statement while looking for matching quote %c", quote)
	}
	if start >= 0 {
		out = append(out, s[start:])
	}
	return out, nil
}

// maxText bounds what variables can blow a text up to.
const maxText = 1 << 20

// expand takes quotes and escapes off and puts variables in: $a, ${a},
// ${a:-otherwise}, ${a:+instead}. Variables are the configuration's own.
func (a *applier) expand(s string) (string, error) {
	var b strings.Builder
	var quote byte
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == '\'' && c != '\'':
			b.WriteByte(c)
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case c == '\\' && i+1 < len(s):
			i++
			if quote == '"' && !strings.ContainsRune(`"$\`, rune(s[i])) {
				b.WriteByte('\\')
			}
			b.WriteByte(s[i])
		case c == '$':
			value, n, err := a.variable(s[i+1:])
			if err != nil {
				return "", err
			}
			b.WriteString(value)
			i += n
		default:
			b.WriteByte(c)
		}
		if b.Len() > maxText {
			return "", invalid("the text is longer than 1 MiB")
		}
	}
	if quote != 0 {
		return "", invalid("unexpected end of statement while looking for matching quote %c", quote)
	}
	return b.String(), nil
}

// variable reads what follows a "$" and returns its value and length.
func (a *applier) variable(s string) (value string, n int, err error) {
	if !strings.HasPrefix(s, "{") {
		n := nameLength(s)
		if n == 0 {
			return "$", 0, nil
		}
		return a.lookup(s[:n]), n, nil
	}
	end := strings.IndexByte(s, '}')
	if end < 0 {
		return "", 0, invalid("${ without }")
	}
	body := s[1:end]
	name := body[:nameLength(body)]
	value = a.lookup(name)
	switch op := body[len(name):]; {
	case name == "":
		return "", 0, invalid("bad substitution: ${%s}", body)
	case op == "":
	case strings.HasPrefix(op, ":-"):
		if value == "" {
			value = op[2:]
		}
	case strings.HasPrefix(op, ":+"):
		if value != "" {
			value = op[2:]
		}
	default:
		return "", 0, invalid("unsupported modifier in substitution: ${%s}", body)
	}
	return value, end + 1, nil
}

// nameLength is that of the variable's name at the start of s.
func nameLength(s string) int {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return i
		}
	}
	return len(s)
}

func (a *applier) lookup(name string) string {
	for _, e := range a.c.Env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}
