package core

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/moatproject/moat/core/internal/validation"
)

// BuildManager handles image building operations.
// Returned by Runtime.BuildManager - nil if not supported.
//
// It is safe for concurrent use. After its runtime's Close its methods return
// [ErrUnavailable]. The engine runs the build's steps outside the sandbox of its containers.
type BuildManager interface {
	// BuildImage builds an image from a Dockerfile's content and tags it. The base
	// image is pulled where it is missing.
	//
	//   - BM-01: the image is what the Dockerfile says, is listed under its tag where that
	//     begins with [ImagePrefix], and carries its labels and Moat's, with [RoleImage].
	//   - BM-02: ContextFiles arrive byte for byte, whatever a .dockerignore names, and hide
	//     Context's of the same path.
	//   - BM-03: Context arrives with its folders and executable files, less what its
	//     .dockerignore names.
	//   - BM-04: a step that fails: a [*BuildError] with step, line and the end of its
	//     output. No other builder tries again, and the tag stays on what it was on.
	//   - BM-05: what is no Dockerfile, or as [ValidateDockerfile] refuses it:
	//     [ErrInvalidConfig], field Dockerfile, with a [*BuildError] that has the line.
	//   - BM-06: a base image that does not exist: [ErrNotFound]. A source to copy that does
	//     not: [ErrInvalidConfig], field ContextFiles, with a [*BuildError].
	//   - BM-07: NoCache: every step runs anew; without it what has not changed is reused.
	//   - BM-08: Args: values of the Dockerfile's ARGs, unchanged.
	//   - BM-09: Progress: every step in order of its beginning, with its output and outcome.
	//   - BM-10: cancelled: it returns within a second, and tags nothing.
	//   - BM-11: an impossible tag, path in ContextFiles, DNS server, argument or label:
	//     [ErrInvalidConfig] with field tag, ContextFiles, DNS, Args or Labels. Nothing is
	//     built.
	//   - BM-14: Context's symbolic links arrive as such.
	//   - BM-15: DNS: the steps ask these servers. Where that cannot be had:
	//     [ErrUnsupported], and nothing is built.
	//   - BM-16: a base image that is missing is pulled.
	//   - BM-17: an unreadable file or directory in Context, what is neither of them nor a
	//     link, a name or a link's target that is not UTF-8, and a .dockerignore that is no
	//     file of patterns: [ErrInvalidConfig], field Context, with the path, and no tag is
	//     set. What .dockerignore names is not looked at.
	BuildImage(ctx context.Context, dockerfile string, tag string, opts BuildOptions) error

	// ImageExists checks if an image with the given tag exists locally.
	//
	//   - BM-12: false and no error only for what is not there; it never pulls.
	ImageExists(ctx context.Context, tag string) (bool, error)

	// GetImageHomeDir returns the home directory configured in an image.
	//
	//   - BM-13: HOME in its environment, else its user's, as its /etc/passwd has it; and
	//     "/root" for root, for an image that is not there, and on any doubt. It never pulls.
	GetImageHomeDir(ctx context.Context, imageName string) string
}

// BuildOptions configures image building.
type BuildOptions struct {
	// DNS servers to use during build, each an IP address. If empty, the builder's.
	DNS []string

	// ContextFiles are additional files to write into the build context directory.
	// Keys are relative paths that stay inside it, values are file contents.
	ContextFiles map[string][]byte

	// NoCache disables build cache, forcing a fresh build of all layers.
	NoCache bool

	// What follows is not in the documented package.

	// Context is the build context directory beneath ContextFiles; nil: an empty one.
	// Its symbolic links are copied as such where it is a [fs.ReadLinkFS], as those of
	// [os.DirFS] and [os.Root.FS] are. It is read while BuildImage runs, from one goroutine
	// or several.
	Context fs.FS

	// Args are values for the ARGs of the Dockerfile. They are no place for secrets: an
	// image tells them to whoever has it.
	Args map[string]string

	// Labels are the image's, beside Moat's own, which they cannot replace. RunID is the
	// run that it is built for, for [LabelRunID].
	Labels map[string]string
	RunID  string

	// Progress is told what happens; nil discards.
	Progress BuildSink
}

var argPattern = validation.Pattern(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// referencePattern is a reference with or without a tag, as the OCI distribution
// specification and Docker's own names of registries have it.
var referencePattern = validation.Pattern(`^` + registryName + pathPart + `(/` + pathPart + `)*` + tagSuffix + `$`)

const (
	registryName = `([a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?(:[0-9]+)?/)?`
	pathPart     = `[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*`
	tagSuffix    = `(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127})?`
)

// ValidateTag reports what cannot be an image's tag, as [ErrInvalidConfig] with the
// field tag.
func ValidateTag(tag string) error {
	if !referencePattern().MatchString(tag) {
		return Invalid("tag", "%q is not NAME or NAME:TAG of an image: a name is of small letters, digits, and . _ - / between them", tag)
	}
	return nil
}

// ValidateDockerfile reports the first line that builders would silently change, because it
// is not UTF-8. Comments may contain such text, unless they could be a part of a
// here-document. The error is [ErrInvalidConfig], field Dockerfile, with a [*BuildError].
func ValidateDockerfile(dockerfile string) error {
	heredocs := strings.Contains(dockerfile, "<<")
	number := 0
	for line := range strings.Lines(dockerfile) {
		number++
		isComment := !heredocs && strings.HasPrefix(strings.TrimLeft(line, " \t"), "#")
		if flaw := validation.Flaw(line); flaw != "" && !isComment {
			failure := &BuildError{Line: number, Err: fmt.Errorf("%q %s", strings.TrimRight(line, "\r\n"), flaw)}
			return &Error{Op: "check configuration", Field: "Dockerfile", Class: ErrInvalidConfig, Err: failure, Remedy: "Save the Dockerfile as UTF-8"}
		}
	}
	return nil
}

// Validate reports the first setting that no builder could honour, as
// [ErrInvalidConfig] with the field's name.
func (o BuildOptions) Validate() error {
	if err := validateDNS(o.DNS); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(o.ContextFiles)) {
		if !utf8.ValidString(name) {
			return Invalid("ContextFiles", "the name %q is not UTF-8", name)
		}
		if !fs.ValidPath(name) || name == "." || strings.ContainsRune(name, 0) {
			return Invalid("ContextFiles", "%q is no path inside the build context: write it relative, with slashes, without . and ..", name)
		}
		for folder := path.Dir(name); folder != "."; folder = path.Dir(folder) {
			if _, taken := o.ContextFiles[folder]; taken {
				return Invalid("ContextFiles", "%q is a file, and the folder of %q", folder, name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Args)) {
		if !argPattern().MatchString(name) {
			return Invalid("Args", "%q is no name of an ARG", name)
		}
	}
	if err := checkValues("Args", o.Args); err != nil {
		return err
	}
	return validateIdentity(Config{Image: "none", Labels: o.Labels, RunID: o.RunID})
}

// ImageLabels returns the labels that the image carries: the caller's and Moat's.
func (o BuildOptions) ImageLabels() map[string]string {
	labels := make(map[string]string, len(o.Labels)+4)
	maps.Copy(labels, o.Labels)
	maps.Copy(labels, ObjectLabels(o.RunID, RoleImage))
	return labels
}

// BuildError tells which step of a Dockerfile failed. [errors.As] finds it in what
// [BuildManager.BuildImage] returns.
type BuildError struct {
	Step   string // as the Dockerfile has it, such as "RUN make"; empty: before the first
	Line   int    // of the Dockerfile, from 1; 0: unknown
	Output string // the end of what the step wrote
	Err    error  // why it failed
}

// Error returns the step, the reason and the end of the output.
func (e *BuildError) Error() string {
	var b strings.Builder
	if e.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", e.Line)
	}
	if e.Step != "" {
		b.WriteString(e.Step + ": ")
	}
	fmt.Fprint(&b, e.Err)
	if output := strings.TrimRight(e.Output, " \t\r\n"); output != "" {
		b.WriteString("\n" + output + "\n")
	}
	return b.String()
}

// Unwrap makes [errors.Is] see the reason.
func (e *BuildError) Unwrap() error { return e.Err }

// BuildStatus tells how far a step is.
type BuildStatus string

// A step is first running, and then done, cached or failed. It may be reported as running
// again after that: the last event counts.
const (
	BuildRunning BuildStatus = "running"
	BuildDone    BuildStatus = "done"
	BuildCached  BuildStatus = "cached" // its result was there
	BuildFailed  BuildStatus = "failed" // or cancelled
)

// BuildProgress is one event of a build's step.
type BuildProgress struct {
	Step    int         // from 1, in order of the steps' beginnings; several may run at once
	Name    string      // what the step does, such as "[2/3] RUN make"
	Status  BuildStatus // after this event
	Output  []byte      // what the step has written since its last event; the sink's to keep
	Detail  string      // the object being transferred, such as a layer; Current and Total count it
	Current int64       // bytes done of Total
	Total   int64       // bytes; 0 where unknown
}

// BuildSink receives progress, one call at a time, in order. It must not block.
type BuildSink func(BuildProgress)
