"""Language: the question's language counts, names and formulas do not."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from distill.judge.style.language import language
from distill.judge.style.prose import prose, words

SAID = {
    "en": "Okay, let me think about this. In April she sold 48 clips and in May half as many, so that is $48/2 = 24$ "
    "clips. Wait, let me check that again: half of 48 is 24. Altogether she sold 48 + 24 = 72 clips.",
    "zh": "好的，让我想一想。四月份她卖了48个发夹，五月份卖了一半，也就是 $48/2 = 24$ 个。"
    "等等，让我再检查一遍：48的一半是24。所以她一共卖了 48 + 24 = 72 个发夹。",
    "de": "Also, überlegen wir das einmal. Im April verkaufte sie 48 Spangen und im Mai halb so viele, das sind "
    "$48/2 = 24$. Moment, ich prüfe das noch einmal: die Hälfte ist 24. Insgesamt verkaufte sie also 72 Spangen.",
    "fr": "Bon, réfléchissons un peu. En avril elle a vendu 48 barrettes et en mai la moitié, ce qui fait $48/2 = 24$. "
    "Attendez, je vérifie encore une fois : la moitié de 48 est 24. En tout elle a donc vendu 72 barrettes.",
    "es": "Bien, vamos a pensarlo. En abril vendió 48 horquillas y en mayo la mitad, es decir $48/2 = 24$. Espera, lo "
    "compruebo otra vez: la mitad de 48 es 24. En total vendió entonces 72 horquillas.",
    "ja": "さて、考えてみましょう。4月に彼女は48個のヘアクリップを売りました。5月にはその半分を売ったので、$48/2 = 24$ "
    "個です。待って、もう一度確認します。したがって全部で 72 個売りました。",
    "ru": "Итак, давайте подумаем. В апреле она продала 48 заколок, а в мае вдвое меньше, то есть $48/2 = 24$ заколки. "
    "Подождите, проверю ещё раз: половина от 48 это 24. Всего она продала 72 заколки.",
    "uk": "Отже, подумаймо. У квітні вона продала 48 шпильок, а в травні вдвічі менше, тобто $48/2 = 24$ шпильки. "
    "Зачекайте, перевірю ще раз: половина від 48 це 24. Усього вона продала 72 шпильки.",
}


@pytest.mark.parametrize("asked", SAID)
@pytest.mark.parametrize("said", SAID)
def test_a_thought_is_judged_by_the_language_of_its_question(asked, said):
    score = language(SAID[said], "72", SAID[asked]).score
    if asked == said:
        assert score == 1.0
    else:
        assert score <= (0.3 if (asked, said) == ("zh", "ja") else 0.0)  # Japanese is part Chinese characters


@pytest.mark.parametrize(("asked", "other"), [("en", "zh"), ("en", "de"), ("de", "en"), ("zh", "en"), ("fr", "es")])
def test_half_of_another_language_costs_about_half(asked, other):
    found = language(f"{SAID[asked]} {SAID[other]}", "", SAID[asked])
    assert 0.3 < found.score < 0.7
    assert f"not in {asked}, the question's language" in found.reason


def test_a_few_foreign_words_cost_their_share_and_are_quoted():
    found = language(SAID["en"] * 3 + "这个问题", "", SAID["en"])
    assert 0.9 < found.score < 1.0
    assert '"这个问题"' in found.reason
    assert found.counts["other"] == 4


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        pytest.param(SAID["en"] + " π r² θ Δ x", SAID["en"], id="Greek variables"),
        pytest.param(
            "So 你好 means hello, and that is what we say here.", "What does 你好 mean in our language?", id="quoted"
        ),
        pytest.param(SAID["zh"] + "三角形 ABC 中，AB = CD，EF = GH，IJ = KL。", SAID["zh"], id="segments in Chinese"),
        pytest.param(
            SAID["zh"] + "所以 sin A 和 speed 都是 km，Tom Smith 说。", SAID["zh"], id="terms and names in Chinese"
        ),
        pytest.param("它是 $\\text{the speed of the first car}$ 。" + SAID["zh"], SAID["zh"], id="Latin in formulas"),
        pytest.param(SAID["en"] + "\n```python\nsumme = 这个()\n```", SAID["en"], id="code"),
        pytest.param("答案", SAID["en"], id="too short"),
        pytest.param("", SAID["en"], id="nothing"),
        pytest.param("7 + 5 = 12 ; 12 * 2 = 24 ;", SAID["en"], id="numbers"),
        pytest.param("Level " * 40, SAID["en"], id="no language is sure"),
        pytest.param("東京都庁舎建設計画委員会の会議資料を確認した。", None, id="Japanese, mostly Chinese characters"),
        pytest.param(SAID["zh"], "Compute $x^2$.", id="the question says too little"),
        pytest.param(SAID["de"], None, id="no question"),
        pytest.param(SAID["ja"], None, id="no question, two scripts"),
    ],
)
def test_names_formulas_and_what_is_unsure_cost_nothing(said, asked):
    assert (language(said, "", asked).score, language(said, "", asked).reason) == (1.0, "")


def test_without_a_question_the_reason_says_whose_language_was_meant():
    found = language(SAID["de"] * 3 + SAID["en"], "", None)
    assert "not in de, mostly the completion's own language" in found.reason


def test_a_formula_hides_no_other_script():
    hidden = SAID["zh"].replace("$", "")
    assert language(f"${hidden}$ \\({hidden}\\)", "so the answer is seventy two clips", SAID["en"]).score < 0.2


def test_threads_share_the_identifier():
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: language(SAID[name], "", SAID["de"]).score, [*SAID] * 20))
    assert found == [float(name == "de") for name in SAID] * 20


def test_prose_is_what_is_left_without_mathematics_code_and_addresses():
    text = r"He \(x\) pays \$5 now $yy$ \[z \\ w\] `c` ```d``` https://e.org/f \frac. \(open"
    assert [word.text for word in words(prose(text))] == ["He", "pays", "now", "open"]
