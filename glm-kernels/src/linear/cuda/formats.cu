// The block formats in device memory, and how they become numbers. `pack.rs` writes what is read here; the sources of the module
// that use it (gemv, gemm, rows) follow this text.
//
// A panel is 16 rows, a chunk 64 columns, a unit 32. Lane l of a warp, g = l / 4 and t = l % 4, works on rows g and g + 8 of a
// panel (halves 0 and 1) and on columns 8t..8t + 8 of each unit: the fragments of `mma.m16n8k16`, its columns reordered, so that
// what a lane loads at once is what it needs, for products on any unit. A panel is planes, one after the other:
//
//     low bits   per chunk and lane, LOW words: a word of LOW 4 is 8 columns of (half 0, unit 0), (0, 1), (1, 0), (1, 1); LOW 8
//                has two words for each, half 0 of all lanes first; LOW 2 has 16 bits for each
//     high bits  per chunk and lane, HIGH words: the 8 or 16 bits of the same four
//     factors    per chunk and g, the four records of (half, unit): integer scales of the unit's sub-blocks, then their minima
//     scales     per chunk and g (GROUP 32: records as above) or per group and g (a record for each half): f16 scale [, f16 minimum]
//
// "Byte form" of eight columns c0..c7 is two words, bytes c0 c4 c1 c5 and c2 c6 c3 c7: what masking nibbles gives if pairs of
// columns are to come out of one mask with 0x000f000f as well. Activations of the dot product have the same order.

// The same number, of which the compiler knows nothing: what is computed from it is not kept in registers, which sums need.
static __device__ __forceinline__ u32 forget(u32 x) {
    asm volatile("" : "+r"(x));
    return x;
}

enum Minimum { NO_MINIMUM, DIRECT_MINIMUM, SCALED_MINIMUM };
enum Levels { INTEGERS, IQ4_TABLE, E4M3 }; // E4M3: 8-bit floats, whose values are 2^-8 of what they are read as elsewhere

#define CHUNK 64u
#define UNIT 32u
#define PANEL_ROWS 16u

// FACTORS: integer scales of 32 columns; ZERO: the code of the value 0.
template <u32 LOW, u32 HIGH, u32 GROUP, u32 FACTORS, Minimum MINIMUM, u32 ZERO_, Levels LEVELS> struct Blocks {
    static constexpr bool HALF = true;
    static constexpr bool INTEGER = LEVELS != E4M3;
    static constexpr u32 ZERO = ZERO_;
    static constexpr bool HAS_MINIMUM = MINIMUM != NO_MINIMUM;
    // Bytes of a record of factors, so words of four of them; words of four or two scales.
    static constexpr u32 RECORD = MINIMUM == SCALED_MINIMUM ? 2 * FACTORS : FACTORS;
    static constexpr u32 SCALE_WORDS = (GROUP == 32 ? 2 : 1) * (HAS_MINIMUM ? 2 : 1);
    static constexpr u32 CHUNKS_PER_SCALE = GROUP == 32 ? 1 : GROUP / CHUNK;

    // What a lane loads of a chunk.
    struct Raw {
        u32 low[LOW];
        u32 high[HIGH ? HIGH : 1];
        u32 factors[RECORD ? RECORD : 1];
        u32 scales[SCALE_WORDS];
    };

    // Where a lane finds its part of a panel, which begins `start` times 128 bytes behind `weights`. No address of a plane, to
    // leave registers for sums.
    struct Place {
        const u8* weights;
        u32 start, chunks, lane;
    };

    static __device__ __forceinline__ u64 panel_bytes(u32 chunks) {
        u64 planes = (u64)chunks * (128 * (LOW + HIGH) + 32 * RECORD);
        return (planes + (u64)ceil_div(chunks, CHUNKS_PER_SCALE) * (32 * SCALE_WORDS) + 127) / 128 * 128;
    }

    static __device__ __forceinline__ Place place(const u8* weights, u32 rows, u32 panel, u32 chunks, u32 lane) {
        u32 last = ceil_div(rows, PANEL_ROWS) - 1; // a block may have more warps than there are panels
        return {weights, min(panel, last) * (u32)(panel_bytes(chunks) / 128), chunks, lane};
    }

    // The same place, whose planes are looked for again.
    static __device__ __forceinline__ Place forget_planes(const Place& at) { return {at.weights, at.start, forget(at.chunks), at.lane}; }

    template <u32 WORDS> static __device__ __forceinline__ void words(u32* to, const u8* from) {
        if constexpr (WORDS == 4) {
            uint4 x = load16(from);
            to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
        } else if constexpr (WORDS == 2) {
            uint2 x = *(const uint2*)from;
            to[0] = x.x, to[1] = x.y;
        } else if constexpr (WORDS == 1) {
            to[0] = *(const u32*)from;
        }
    }

    static __device__ __forceinline__ void load(Raw& raw, const Place& at, u32 chunk) {
        const u8* panel = at.weights + (u64)at.start * 128;
        u32 lane = at.lane, g = lane / 4;
        u32 high = at.chunks * (128 * LOW), factors = high + at.chunks * (128 * HIGH), scales = factors + at.chunks * (32 * RECORD);
        if constexpr (LOW == 2) {
            words<2>(raw.low, panel + (chunk * 32 + lane) * 8);
        } else {
#pragma unroll
            for (u32 i = 0; i < LOW / 4; i++) {
                uint4 x = load16_once(panel + (chunk * LOW * 8 + i * 32 + lane) * 16);
                raw.low[4 * i] = x.x, raw.low[4 * i + 1] = x.y, raw.low[4 * i + 2] = x.z, raw.low[4 * i + 3] = x.w;
            }
        }
        words<HIGH>(raw.high, panel + high + (chunk * 32 + lane) * (4 * HIGH));
        words<RECORD>(raw.factors, panel + factors + (chunk * 8 + g) * (4 * RECORD));
        words<SCALE_WORDS>(raw.scales, panel + scales + (chunk / CHUNKS_PER_SCALE * 8 + g) * (4 * SCALE_WORDS));
    }

    // Asks for up to 4 KiB of the low bits of chunks `first..last`, which the warp will load first.
    static __device__ __forceinline__ void prefetch(const u8* weights, u32 rows, u32 panel, u32 chunks, u32 first, u32 last, u32 lane) {
        u64 at = (u64)first * (128 * LOW) + lane * 128;
        if (at < (u64)last * (128 * LOW)) prefetch_l2(weights + place(weights, rows, panel, chunks, 0).start * (u64)128 + at);
    }

    // Two bits of each of eight columns to byte form; and one bit, in the order of byte form.
    static __device__ __forceinline__ void spread_crumbs(u32 crumbs, u32 (&bytes)[2]) {
        u32 both = crumbs | crumbs << 14;
        bytes[0] = both & 0x03030303u;
        bytes[1] = both >> 4 & 0x03030303u;
    }
    static __device__ __forceinline__ void spread_bits(u32 bits, u32 (&bytes)[2]) {
        u32 all = bits | bits << 7;
        all |= all << 14;
        bytes[0] = all & 0x01010101u;
        bytes[1] = all >> 4 & 0x01010101u;
    }

    // Codes of IQ4, bytes below 16, to the levels of its table, plus 128.
    static __device__ __forceinline__ u32 levels(u32 codes) {
        // -127 -104 -83 -65 | -49 -35 -22 -10 | 1 13 25 38 | 53 69 89 113, plus 128
        const u32 a = 0x3f2d1801u, b = 0x766a5d4fu, c = 0xa6998d81u, d = 0xf1d9c5b5u;
        u32 picks = (codes | codes >> 4) & 0x00ff00ffu;
        picks = (picks | picks >> 8) & 0xffffu;
        u32 low = __byte_perm(a, b, picks & 0x7777u), high = __byte_perm(c, d, picks & 0x7777u);
        u32 upper = (codes >> 3 & 0x01010101u) * 255u;
        return (low & ~upper) | (high & upper);
    }

    // The codes of eight columns in byte form.
    static __device__ __forceinline__ void bytes(const Raw& raw, u32 half, u32 unit, u32 (&out)[2]) {
        u32 i = 2 * half + unit;
        if constexpr (LOW == 8) {
            out[0] = raw.low[2 * i], out[1] = raw.low[2 * i + 1];
        } else if constexpr (LOW == 4) {
            out[0] = raw.low[i] & 0x0f0f0f0fu, out[1] = raw.low[i] >> 4 & 0x0f0f0f0fu;
        } else {
            spread_crumbs(raw.low[half] >> (16 * unit) & 0xffffu, out);
        }
        if constexpr (HIGH != 0) {
            u32 upper[2];
            if constexpr (HIGH == 2) spread_crumbs(raw.high[half] >> (16 * unit) & 0xffffu, upper);
            else spread_bits(raw.high[0] >> (8 * i) & 0xffu, upper);
            out[0] |= upper[0] << LOW, out[1] |= upper[1] << LOW;
        }
        if constexpr (LEVELS == IQ4_TABLE) out[0] = levels(out[0]), out[1] = levels(out[1]);
    }

    // The f16 scale of a row in a unit, beside it its minimum if there is one.
    static __device__ __forceinline__ u32 scale_bits(const Raw& raw, u32 half, u32 unit) {
        u32 i = GROUP == 32 ? 2 * half + unit : half;
        return HAS_MINIMUM ? raw.scales[i] : raw.scales[i / 2] >> (16 * (i % 2));
    }
    static __device__ __forceinline__ u32 factor_byte(const Raw& raw, u32 half, u32 unit, u32 byte) {
        u32 at = (2 * half + unit) * RECORD;
        return raw.factors[at / 4] >> (8 * (at % 4 + byte)) & 0xffu;
    }

    // What a code less ZERO is multiplied with, for the columns of lane `t`; and what is subtracted then.
    static __device__ __forceinline__ float scale(const Raw& raw, u32 half, u32 unit, u32 t) {
        float scale = f16_low(scale_bits(raw, half, unit));
        if constexpr (FACTORS == 0) return scale;
        return __fmul_rn(scale, (float)(i8)factor_byte(raw, half, unit, FACTORS == 2 ? t / 2 : 0));
    }
    static __device__ __forceinline__ float minimum(const Raw& raw, u32 half, u32 unit, u32 t) {
        if constexpr (MINIMUM == NO_MINIMUM) return 0.0f;
        float minimum = f16_high(scale_bits(raw, half, unit));
        if constexpr (MINIMUM == DIRECT_MINIMUM) return -minimum;
        return __fmul_rn(minimum, (float)factor_byte(raw, half, unit, FACTORS + (FACTORS == 2 ? t / 2 : 0)));
    }

    // The codes of eight columns less ZERO as pairs of f16, in order of the columns. 0x6400 is 1024, whose last place is 1: a
    // code is put there and 1024 taken away, without a conversion.
    static __device__ __forceinline__ void code_pairs(const Raw& raw, u32 half, u32 unit, u32 (&out)[4]) {
        if constexpr (LEVELS == INTEGERS && LOW == 4 && HIGH == 0) {
            u32 word = raw.low[2 * half + unit];
#pragma unroll
            for (u32 i = 0; i < 4; i++) out[i] = (word >> (4 * i) & 0x000f000fu) | 0x64006400u;
        } else {
            u32 word[2];
            bytes(raw, half, unit, word);
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                if constexpr (LEVELS == E4M3) {
                    out[i] = (word[i] & 0x007f007fu) << 7 | (word[i] & 0x00800080u) << 8;
                    out[2 + i] = (word[i] & 0x7f007f00u) >> 1 | (word[i] & 0x80008000u);
                } else {
                    out[i] = __byte_perm(word[i], 0x64646464u, 0x4240);
                    out[2 + i] = __byte_perm(word[i], 0x64646464u, 0x4341);
                }
            }
        }
        if constexpr (LEVELS != E4M3) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) out[i] = h2_sub(out[i], 0x64006400u + 0x00010001u * ZERO);
        }
    }

    // The values of eight columns as pairs of f16.
    static __device__ __forceinline__ void value_pairs(const Raw& raw, u32 half, u32 unit, u32 t, u32 (&out)[4]) {
        code_pairs(raw, half, unit, out);
        float by = scale(raw, half, unit, t), less = -minimum(raw, half, unit, t);
        u32 scales = pack_f16(by, by), minima = pack_f16(less, less);
#pragma unroll
        for (u32 i = 0; i < 4; i++) out[i] = HAS_MINIMUM ? h2_fma(out[i], scales, minima) : h2_mul(out[i], scales);
    }

    // Puts what belongs to unit 1 where unit 0 was.
    static __device__ __forceinline__ void next_unit(Raw& raw) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            if constexpr (LOW == 8) raw.low[4 * half] = raw.low[4 * half + 2], raw.low[4 * half + 1] = raw.low[4 * half + 3];
            if constexpr (LOW == 4) raw.low[2 * half] = raw.low[2 * half + 1];
            if constexpr (LOW == 2) raw.low[half] >>= 16;
            if constexpr (HIGH == 2) raw.high[half] >>= 16;
            if constexpr (RECORD == 4) raw.factors[2 * half] = raw.factors[2 * half + 1];
            if constexpr (RECORD == 2) raw.factors[half] >>= 16;
            if constexpr (GROUP == 32 && HAS_MINIMUM) raw.scales[2 * half] = raw.scales[2 * half + 1];
            if constexpr (GROUP == 32 && !HAS_MINIMUM) raw.scales[half] >>= 16;
        }
        if constexpr (HIGH == 1) raw.high[0] >>= 8;
        if constexpr (RECORD == 1) raw.factors[0] >>= 8;
    }

    // The fragments A of unit 0, for two products of 16 columns each.
    static __device__ __forceinline__ void fragments(const Raw& raw, u32 t, u32 (&a)[2][4]) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 pairs[4];
            value_pairs(raw, half, 0, t, pairs);
#pragma unroll
            for (u32 i = 0; i < 4; i++) a[i / 2][half + i % 2 * 2] = pairs[i];
        }
    }
};

typedef Blocks<4, 0, 32, 0, NO_MINIMUM, 8, INTEGERS> Q4_0;
typedef Blocks<4, 0, 32, 0, DIRECT_MINIMUM, 0, INTEGERS> Q4_1;
typedef Blocks<4, 1, 32, 0, NO_MINIMUM, 16, INTEGERS> Q5_0;
typedef Blocks<4, 1, 32, 0, DIRECT_MINIMUM, 0, INTEGERS> Q5_1;
typedef Blocks<8, 0, 32, 0, NO_MINIMUM, 128, INTEGERS> Q8_0;
typedef Blocks<2, 0, 256, 2, SCALED_MINIMUM, 0, INTEGERS> Q2_K;
typedef Blocks<2, 1, 256, 2, NO_MINIMUM, 4, INTEGERS> Q3_K;
typedef Blocks<4, 0, 256, 1, SCALED_MINIMUM, 0, INTEGERS> Q4_K;
typedef Blocks<4, 1, 256, 1, SCALED_MINIMUM, 0, INTEGERS> Q5_K;
typedef Blocks<4, 2, 256, 2, NO_MINIMUM, 32, INTEGERS> Q6_K;
typedef Blocks<4, 0, 32, 0, NO_MINIMUM, 128, IQ4_TABLE> IQ4_NL;
typedef Blocks<4, 0, 256, 1, NO_MINIMUM, 128, IQ4_TABLE> IQ4_XS;
typedef Blocks<4, 0, 128, 0, NO_MINIMUM, 8, INTEGERS> INT4;
typedef Blocks<8, 0, 128, 0, NO_MINIMUM, 0, E4M3> FP8;
