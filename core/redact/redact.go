// Package redact takes secrets out of texts.
package redact

import (
	"cmp"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Mark takes the place of a secret.
const Mark = "[redacted]"

// Text replaces each secret in a text by [Mark]. It also finds secrets as quoted strings,
// JSON and URLs write them. If a secret has several lines, each of them is replaced as well.
func Text(text string, secrets ...string) string {
	var pairs []string
	for _, form := range Forms(secrets...) {
		pairs = append(pairs, form, Mark)
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// Forms returns the ways in which secrets may be written in a text. The longest come first:
// replacing a shorter form first could leave the rest of a longer one.
func Forms(secrets ...string) []string {
	var lines []string
	for _, secret := range secrets {
		lines = append(lines, append(strings.Split(secret, "\n"), secret)...)
	}
	var forms []string
	for _, secret := range lines {
		if strings.TrimSpace(secret) == "" {
			continue
		}
		asJSON, _ := json.Marshal(secret) // of a string it cannot fail
		forms = append(forms, secret, inner(strconv.Quote(secret)), inner(strconv.QuoteToASCII(secret)), inner(string(asJSON)),
			strings.ReplaceAll(inner(string(asJSON)), "/", `\/`),
			url.QueryEscape(secret), url.PathEscape(secret), strings.ReplaceAll(url.QueryEscape(secret), "+", "%20"),
			strings.TrimPrefix(url.UserPassword("", secret).String(), ":"), strings.ReplaceAll(secret, `'`, `'\''`))
	}
	slices.SortFunc(forms, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	return slices.Compact(forms)
}

// inner returns a quoted string without its quotes.
func inner(quoted string) string { return quoted[1 : len(quoted)-1] }
