package programs

import (
	"bytes"
	"debug/elf"
	"testing"
)

func TestRead(t *testing.T) {
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for _, name := range []string{"gate", "probe", "resolver"} {
		for architecture, machine := range machines {
			binary, err := Read(name, architecture)
			if err != nil {
				t.Fatal(err)
			}
			file, err := elf.NewFile(bytes.NewReader(binary))
			if err != nil || file.Machine != machine || file.Type != elf.ET_EXEC {
				t.Errorf("%s for %s is %+v, %v", name, architecture, file, err)
			}
			if libraries, err := file.ImportedLibraries(); len(libraries) > 0 {
				t.Errorf("%s for %s needs %v, %v", name, architecture, libraries, err)
			}
		}
		if _, err := Read(name, "riscv64"); err == nil {
			t.Errorf("%s for another architecture", name)
		}
	}
}
