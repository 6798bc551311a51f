package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/moatproject/moat/core"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// stdinName stands for standard input in place of a file or directory.
const stdinName = "-"

// maxDockerfile is more than any Dockerfile has, and less than an archive given by mistake.
const maxDockerfile = 4 << 20

// buildOptions are the flags of `moat build`.
type buildOptions struct {
	file, progress     string
	tags, args, labels []string
	noCache, quiet     bool
}

func (o *buildOptions) register(flags *pflag.FlagSet) {
	flags.StringVarP(&o.file, "file", "f", "", "`Dockerfile`, or - for standard input (default CONTEXT/Dockerfile)")
	flags.StringArrayVarP(&o.tags, "tag", "t", nil, "`tag` of the image (default "+core.ImagePrefix+"DIRECTORY:latest, after CONTEXT)")
	flags.BoolVar(&o.noCache, "no-cache", false, "do not use the build cache")
	flags.StringArrayVar(&o.args, "build-arg", nil, "value of an ARG, `KEY=value`, or KEY for this process's value; not for secrets")
	flags.StringArrayVar(&o.labels, "label", nil, "label of the image, `KEY=value`")
	flags.StringVar(&o.progress, "progress", progressAuto, "`how` to show progress: auto, plain or tty")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
}

func (a *app) buildCommand() *cobra.Command {
	var options buildOptions
	cmd := &cobra.Command{
		Use:   "build [CONTEXT]",
		Short: "Build an image from a Dockerfile and print its tag",
		Long: "Build an image from a Dockerfile and the files of CONTEXT, a directory (default: the current one), and print its tag.\n" +
			"A CONTEXT of - is an empty one, and the Dockerfile comes from standard input.\n" +
			"Without -t the tag is " + core.ImagePrefix + "DIRECTORY:latest, after the name of the CONTEXT directory, or " + tagAfter("stdin") + ".\n" +
			"`moat run` takes any tag; `moat images` lists those that begin with " + core.ImagePrefix + ".\n\n" +
			"The steps of a Dockerfile run in the engine's builder, outside the sandbox: build only what you trust.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.env.Builder != "" {
				return a.becomeBuilder()
			}
			return a.build(cmd, &options, append(args, ".")[0])
		},
	}
	options.register(cmd.Flags())
	cmd.MarkFlagsMutuallyExclusive("quiet", "progress")
	a.jsonFlag(cmd)
	return cmd
}

// becomeBuilder replaces this program by the one beside it that builds images, with the
// same arguments. It returns only where it cannot.
func (a *app) becomeBuilder() error {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return fmt.Errorf("find this program's directory: %w", err)
	}
	builder := filepath.Join(filepath.Dir(self), a.env.Builder)
	err = syscall.Exec(builder, append([]string{builder}, a.args...), os.Environ())
	return fmt.Errorf("start %s: %w. `moat build` needs it beside moat: `make build` makes both", builder, err)
}

func (a *app) build(cmd *cobra.Command, options *buildOptions, folder string) error {
	printer, err := options.printer(a.env)
	if err != nil {
		return err
	}
	tag, err := options.tag(a.env, folder)
	if err != nil {
		return err
	}
	asked, err := options.asked(a.env)
	if err != nil {
		return err
	}
	if !options.quiet {
		asked.Progress = printer.show
	}
	if folder != stdinName {
		root, err := openContext(folder)
		if err != nil {
			return err
		}
		defer func() { _ = root.Close() }()
		asked.Context = root.FS()
	}
	dockerfile, err := options.dockerfile(a.env, folder)
	if err != nil {
		return err
	}
	err = with(cmd, a, func(ctx context.Context, managers core.Managers) error {
		builder, err := core.BuildManagerOf(managers)
		if err != nil {
			return err
		}
		return builder.BuildImage(ctx, dockerfile, tag, asked)
	})
	printer.finish()
	if err != nil {
		return printer.withoutRepetition(err)
	}
	return a.printImageNames([]string{tag})
}

// asked turns flags into the builder's options, without the context.
func (o *buildOptions) asked(env Env) (core.BuildOptions, error) {
	asked := core.BuildOptions{NoCache: o.noCache, Args: map[string]string{}}
	entries, err := environment(env, nil, "--build-arg", o.args)
	if err != nil {
		return asked, err
	}
	for _, entry := range entries {
		key, value, _ := strings.Cut(entry, "=")
		asked.Args[key] = value
	}
	if asked.Labels, err = parseLabels(o.labels); err != nil {
		return asked, err
	}
	return asked, asked.Validate()
}

func (o *buildOptions) tag(env Env, folder string) (string, error) {
	switch len(o.tags) {
	case 0:
	case 1:
		return o.tags[0], core.ValidateTag(o.tags[0])
	default:
		return "", fmt.Errorf("-t %q: a build has one tag", o.tags)
	}
	if folder == stdinName {
		return tagAfter("stdin"), nil
	}
	path, err := env.Abs(folder)
	return tagAfter(filepath.Base(path)), err
}

// maxNameLength leaves room for a registry in the 255 characters of a name.
const maxNameLength = 128

var notAlphanumeric = regexp.MustCompile(`[^a-z0-9]+`)

// tagAfter makes a tag from a directory's name, replacing characters that a tag cannot
// have.
func tagAfter(folder string) string {
	name := notAlphanumeric.ReplaceAllStringFunc(strings.ToLower(folder), func(separator string) string {
		if separator == "." || separator == "_" {
			return separator
		}
		return "-"
	})
	name = strings.Trim(name[:min(len(name), maxNameLength)], "-._")
	return core.ImagePrefix + cmp.Or(name, "image") + ":latest"
}

// openContext opens a directory so that no symbolic link in it leads out of it.
func openContext(folder string) (root *os.Root, err error) {
	failure := &core.Error{Op: "open build context", Object: folder}
	info, err := os.Stat(folder)
	if err == nil && !info.IsDir() {
		failure.Class, failure.Err = core.ErrInvalidConfig, errors.New("it is not a directory")
		failure.Remedy = "Give the directory that holds the files; name a Dockerfile with -f"
		return nil, failure
	}
	if err == nil {
		root, err = os.OpenRoot(folder)
	}
	if errors.Is(err, fs.ErrNotExist) {
		failure.Class, failure.Remedy = core.ErrNotFound, "Give a directory of this machine as CONTEXT (. is the current one)"
		return nil, failure
	}
	if failure.Err = err; err != nil {
		return nil, failure
	}
	return root, nil
}

var (
	errNotText   = errors.New("it is too large, or not a text file; if it is an archive, unpack it and give the directory as CONTEXT")
	errOwnIgnore = errors.New("it has a .dockerignore of its own, beside it; move that to CONTEXT/.dockerignore")
)

// dockerfile returns its content.
func (o *buildOptions) dockerfile(env Env, folder string) (string, error) {
	name := cmp.Or(o.file, filepath.Join(folder, "Dockerfile"))
	if folder == stdinName {
		if o.file != "" {
			return "", fmt.Errorf("-f %q: a CONTEXT of - is the Dockerfile itself; leave one of them out", o.file)
		}
		name = stdinName
	}
	content, err := readDockerfile(env, name)
	failure := &core.Error{Op: "read Dockerfile", Object: name, Err: err}
	switch {
	case err == nil:
		return string(content), nil
	case errors.Is(err, fs.ErrNotExist):
		failure.Class, failure.Err, failure.Remedy = core.ErrNotFound, nil, "Write it, or name another with -f"
	case errors.Is(err, errNotText):
		failure.Class = core.ErrInvalidConfig
	case errors.Is(err, errOwnIgnore):
		failure.Class = core.ErrUnsupported
	}
	return "", failure
}

func readDockerfile(env Env, name string) ([]byte, error) {
	source := env.Stdin
	if name != stdinName {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		if _, err := os.Lstat(name + ".dockerignore"); err == nil {
			return nil, errOwnIgnore
		}
		source = file
	}
	content, err := io.ReadAll(io.LimitReader(source, maxDockerfile+1))
	if err == nil && (len(content) > maxDockerfile || bytes.IndexByte(content, 0) >= 0) {
		err = errNotText
	}
	return content, err
}
