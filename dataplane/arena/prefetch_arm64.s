#include "textflag.h"

// func Prefetch(mem []uint64, at []uint32, last int)
TEXT ·Prefetch(SB), NOSPLIT, $0-56
	MOVD mem_base+0(FP), R0
	MOVD at_base+24(FP), R1
	MOVD at_len+32(FP), R2
	MOVD last+48(FP), R3
	LSL  $3, R3, R3
	CBZ  R2, done

loop:
	MOVWU.P 4(R1), R4
	LSL  $3, R4, R4
	ADD  R0, R4, R4
	PRFM (R4), PLDL1KEEP
	ADD  R3, R4, R4
	PRFM (R4), PLDL1KEEP
	SUBS $1, R2, R2
	BNE  loop

done:
	RET
