/* The tiles of every height: included where tile(MR, NV, in_rows, t) is, which computes one of MR rows and NV vectors. */
typedef void (*TileOf)(const Tile *);
#define TILE(MR)                                                                \
    static void rows_##MR##_1(const Tile *t) { tile(MR, 1, 1, t); }             \
    static void rows_##MR##_2(const Tile *t) { tile(MR, 2, 1, t); }             \
    static void columns_##MR##_1(const Tile *t) { tile(MR, 1, 0, t); }          \
    static void columns_##MR##_2(const Tile *t) { tile(MR, 2, 0, t); }
#define TILES(MR) {{columns_##MR##_1, columns_##MR##_2}, {rows_##MR##_1, rows_##MR##_2}}
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
#if TALL == 14
TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12) TILE(13) TILE(14)
#endif
static const TileOf TILE_OF[TALL][2][2] = { /* by rows, order of A, vectors */
    TILES(1), TILES(2), TILES(3), TILES(4), TILES(5), TILES(6),
#if TALL == 14
    TILES(7), TILES(8), TILES(9), TILES(10), TILES(11), TILES(12), TILES(13), TILES(14),
#endif
};
