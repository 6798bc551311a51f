package egress

import (
	"strings"
	"unicode/utf8"
)

// toASCII returns the ASCII form of an international host name, to name it in an error.
// It converts to lower case and leaves other normalization to the reader.
func toASCII(host string) (string, bool) {
	if !utf8.ValidString(host) || len(host) > 253 {
		return "", false
	}
	labels := strings.Split(strings.ToLower(host), ".")
	for i, label := range labels {
		if strings.IndexFunc(label, func(r rune) bool { return r >= utf8.RuneSelf }) >= 0 {
			labels[i] = "xn--" + punycode([]rune(label))
		}
	}
	ascii, err := checkHost(strings.Join(labels, "."))
	return ascii, err == nil
}

// punycode encodes a label by RFC 3492.
func punycode(label []rune) string {
	const base, tMin, tMax, skew, damp = 36, 1, 26, 38, 700
	var encoded []byte
	for _, r := range label {
		if r < utf8.RuneSelf {
			encoded = append(encoded, byte(r))
		}
	}
	basic := len(encoded)
	done := basic
	if basic > 0 {
		encoded = append(encoded, '-')
	}
	n, delta, bias := rune(utf8.RuneSelf), 0, 72
	for done < len(label) {
		next := rune(utf8.MaxRune)
		for _, r := range label {
			if r >= n {
				next = min(next, r)
			}
		}
		delta += int(next-n) * (done + 1)
		n = next
		for _, r := range label {
			if r < n {
				delta++
			}
			if r != n {
				continue
			}
			q := delta
			for k := base; ; k += base {
				t := min(max(k-bias, tMin), tMax)
				if q < t {
					encoded = append(encoded, digit(q))
					break
				}
				encoded = append(encoded, digit(t+(q-t)%(base-t)))
				q = (q - t) / (base - t)
			}
			if done == basic {
				delta /= damp
			} else {
				delta /= 2
			}
			done++
			delta += delta / done
			k := 0
			for ; delta > (base-tMin)*tMax/2; k += base {
				delta /= base - tMin
			}
			bias = k + (base-tMin+1)*delta/(delta+skew)
			delta = 0
		}
		delta++
		n++
	}
	return string(encoded)
}

func digit(value int) byte {
	return "abcdefghijklmnopqrstuvwxyz0123456789"[value]
}
