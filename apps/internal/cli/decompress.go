package cli

import (
	"bufio"
	"compress/bzip2"
	"compress/gzip"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// decompressor reads an archive that may be compressed, as `docker cp -` does. The first
// Read detects the format.
type decompressor struct {
	source *bufio.Reader
	plain  io.Reader // nil: not looked yet
}

func (d *decompressor) Read(p []byte) (int, error) {
	if d.plain == nil {
		var err error
		if d.plain, err = decompressed(d.source); err != nil {
			return 0, err
		}
	}
	return d.plain.Read(p)
}

func decompressed(source *bufio.Reader) (io.Reader, error) {
	first, _ := source.Peek(len("BZh91AY&SY"))
	begins := func(magic string) bool { return strings.HasPrefix(string(first), magic) }
	switch {
	case begins("\x1f\x8b\x08"):
		return gzip.NewReader(source)
	case begins("BZh") && strings.HasSuffix(string(first), "1AY&SY"): // a file's name may begin so
		return bzip2.NewReader(source), nil
	case begins("\xfd7zXZ\x00"):
		return xz.NewReader(source)
	case begins("\x28\xb5\x2f\xfd"):
		return zstd.NewReader(source, zstd.WithDecoderConcurrency(1))
	}
	return source, nil
}
