package core

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/moatproject/moat/core/internal/validation"
)

var placeholderPattern = validation.Pattern(`\{[^{}]*\}`)

// placeholders returns the value of each {placeholder}: {password}, and {key} for each
// variable, in small letters.
func placeholders(env map[string]string, passwordEnv string) map[string]string {
	values := make(map[string]string, len(env)+1)
	for _, key := range validation.SortedKeys(env) { // in order: keys may differ in case alone
		values["{"+strings.ToLower(key)+"}"] = env[key]
	}
	if password, ok := env[passwordEnv]; ok {
		values["{password}"] = password
	}
	return values
}

// expandCmd returns ExtraCmd with the placeholders replaced, in one pass: a value that
// looks like a placeholder is not replaced again, and an unknown one stays.
func (c ServiceConfig) expandCmd() []string {
	values := placeholders(c.Env, c.PasswordEnv)
	var expanded []string
	for _, arg := range c.ExtraCmd {
		expanded = append(expanded, placeholderPattern().ReplaceAllStringFunc(arg, func(name string) string {
			if value, ok := values[name]; ok {
				return value
			}
			return name
		}))
	}
	return expanded
}

// ReadinessScript returns ReadinessCmd as a script for `sh -c`, and the variables that
// it needs, KEY=value, beside the container's own. The values of placeholders are in
// those variables alone, so that no shell parses them.
//
// A placeholder becomes a variable reference that fits the quotes around it. Its value
// stays one word, or part of a word, in {key}, "{key}" and '{key}' alike. An unknown
// placeholder is not replaced, nor is ${key}, nor \{key} outside single quotes.
// Here-documents are not supported. If the script passes a value to another interpreter
// (sh -c "… {key} …"), that interpreter does parse it.
func (i ServiceInfo) ReadinessScript() (script string, env []string) {
	values := placeholders(i.Env, i.PasswordEnv)
	references := map[string]string{}
	reference := func(name, value string) string {
		if references[name] == "" {
			variable := fmt.Sprint("MOAT_PLACEHOLDER_", len(references)+1)
			references[name] = "${" + variable + "}"
			env = append(env, variable+"="+value)
		}
		return references[name]
	}

	var b strings.Builder
	ends := []byte{0} // what closes the quotes and parentheses around, the innermost last
	for rest, before := i.ReadinessCmd, byte('\n'); rest != ""; {
		end, char, token := ends[len(ends)-1], rest[0], rest[:1]
		text := ""
		switch {
		case char == '{':
			name := rest[:strings.IndexByte(rest, '}')+1]
			if value, ok := values[name]; ok {
				token, text = name, quoted(reference(name, value), end)
			}
		case end != 0 && char == end:
			ends = ends[:len(ends)-1]
		case end == '\'':
		case char == '\\' || strings.HasPrefix(rest, "${"):
			token = rest[:min(2, len(rest))]
		case strings.HasPrefix(rest, "$("):
			token = "$("
			ends = append(ends, ')')
		case char == '"' || char == '`':
			ends = append(ends, char)
		case end == '"': // the others have no meaning there
		case char == '\'':
			ends = append(ends, char)
		case char == '(':
			ends = append(ends, ')')
		case char == '#' && strings.IndexByte(" \t\n;&|()`", before) >= 0: // a comment
			token, _, _ = strings.Cut(rest, "\n")
		}
		b.WriteString(cmp.Or(text, token))
		rest, before = rest[len(token):], token[len(token)-1]
	}
	return b.String(), env
}

// quoted returns a reference that stays one word within what end closes.
func quoted(reference string, end byte) string {
	switch end {
	case '\'':
		return `'"` + reference + `"'`
	case '"':
		return reference
	}
	return `"` + reference + `"`
}
