package gvisor

import (
	"bytes"
	"debug/elf"
	"io"
	"slices"
	"testing"

	"golang.org/x/arch/arm64/arm64asm"
	"golang.org/x/arch/x86/x86asm"
)

func TestProbeCode(t *testing.T) {
	listings := map[string]struct {
		disassemble func([]byte) (text string, size int, err error)
		want        []string
	}{
		"amd64": {disassembleAMD64, []string{
			"sub rsp, 0x400",
			"mov eax, 0x3f", "mov rdi, rsp", "syscall",
			"mov eax, 0x67", "mov edi, 0x3", "lea rsi, ptr [rsp+0x186]", "mov edx, 0x200", "syscall",
			"mov edx, 0x186", "test eax, eax", "js .+0x2", "add edx, eax",
			"mov eax, 0x1", "mov edi, 0x1", "mov rsi, rsp", "syscall",
			"mov eax, 0x3c", "xor edi, edi", "syscall",
		}},
		"arm64": {disassembleARM64, []string{
			"sub sp, sp, #0x400",
			"mov x8, #0xa0", "mov x0, sp", "svc #0x0",
			"mov x8, #0x74", "mov x0, #0x3", "add x1, sp, #0x186", "mov x2, #0x200", "svc #0x0",
			"mov x2, #0x186", "tbnz x0, #63, .+0x8", "add x2, x2, x0",
			"mov x8, #0x40", "mov x0, #0x1", "mov x1, sp", "svc #0x0",
			"mov x8, #0x5d", "mov x0, #0x0", "svc #0x0",
		}},
	}
	for architecture, program := range probeCode {
		t.Run(architecture, func(t *testing.T) {
			listing := listings[architecture]
			var got []string
			for code := program.code; len(code) > 0; {
				text, size, err := listing.disassemble(code)
				if err != nil {
					t.Fatalf("after %q: %v", got, err)
				}
				got, code = append(got, text), code[size:]
			}
			if !slices.Equal(got, listing.want) {
				t.Errorf("the code is\n%q\nwant\n%q", got, listing.want)
			}
		})
	}
}

func disassembleAMD64(code []byte) (string, int, error) {
	instruction, err := x86asm.Decode(code, 64)
	if err != nil {
		return "", 0, err
	}
	return x86asm.IntelSyntax(instruction, 0, nil), instruction.Len, nil
}

func disassembleARM64(code []byte) (string, int, error) {
	instruction, err := arm64asm.Decode(code)
	return arm64asm.GNUSyntax(instruction), 4, err
}

func TestExecutable(t *testing.T) {
	for architecture, program := range probeCode {
		t.Run(architecture, func(t *testing.T) {
			content := executable(program.machine, program.code)
			if len(content) >= 400 {
				t.Errorf("%d bytes", len(content))
			}
			file, err := elf.NewFile(bytes.NewReader(content))
			if err != nil {
				t.Fatal(err)
			}
			if file.Machine != program.machine || len(file.Progs) != 1 {
				t.Fatalf("machine %v, %d segments", file.Machine, len(file.Progs))
			}
			segment := file.Progs[0]
			if segment.Flags != elf.PF_R|elf.PF_X {
				t.Errorf("segment flags %v", segment.Flags)
			}
			code, err := io.ReadAll(io.NewSectionReader(segment, int64(file.Entry-segment.Vaddr), int64(segment.Memsz)))
			if err != nil || !bytes.Equal(code, program.code) {
				t.Errorf("at the entry point: %x, %v", code, err)
			}
		})
	}
}
