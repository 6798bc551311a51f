package cli

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// inBzip2 is "archive", which the standard library only reads.
const inBzip2 = "QlpoOTFBWSZTWSRfUbYAAAABgCpgEQAgADEMAQabQiMJRdyRThQkCRfUbYA="

func TestDecompressor(t *testing.T) {
	const archive = "archive"
	write := func(open func(io.Writer) (io.WriteCloser, error)) string {
		var packed bytes.Buffer
		out, err := open(&packed)
		must(t, err)
		_, err = io.WriteString(out, archive)
		must(t, err)
		must(t, out.Close())
		return packed.String()
	}
	bzip2, err := base64.StdEncoding.DecodeString(inBzip2)
	must(t, err)
	for name, packed := range map[string]string{
		"plain": archive,
		"gzip":  write(func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }),
		"bzip2": string(bzip2),
		"xz":    write(func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }),
		"zstd":  write(func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }),
	} {
		got, err := io.ReadAll(&decompressor{source: bufio.NewReader(iotest.OneByteReader(strings.NewReader(packed)))})
		if string(got) != archive || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if name == "plain" {
			continue
		}
		if _, err := io.ReadAll(&decompressor{source: bufio.NewReader(strings.NewReader(packed[:len(packed)-3]))}); err == nil {
			t.Errorf("%s: the end is missing, and nobody says so", name)
		}
	}
	for _, short := range []string{"", "BZh", "BZhello.txt"} {
		if got, err := io.ReadAll(&decompressor{source: bufio.NewReader(strings.NewReader(short))}); string(got) != short || err != nil {
			t.Errorf("%q became %q, %v", short, got, err)
		}
	}
}
